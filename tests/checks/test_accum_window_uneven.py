"""accum-window-uneven: odd windows at the edges of an epoch are said with their numbers, others are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loopkit import Confidence, Finding, Severity
from tests.frameworks import trainers
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of

RULE = "accum-window-uneven"


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [finding for finding in find(loop) if finding.rule == RULE]


def steps_on_the_first() -> None:
    net = model()
    optimizer = adamw(net)
    data = loader(80)
    for _ in range(3):
        for i, (x, y) in enumerate(data):
            (loss_of(net(x), y) / 4).backward()
            if i % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()


def loses_the_tail() -> None:
    net = model()
    optimizer = adamw(net)
    data = loader(40)
    for _ in range(4):
        optimizer.zero_grad()
        for i, (x, y) in enumerate(data):
            (loss_of(net(x), y) / 4).backward()
            if (i + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()


def leaks_the_tail() -> None:
    net = model()
    optimizer = adamw(net)
    data = loader(40)
    for _ in range(4):
        for i, (x, y) in enumerate(data):
            (loss_of(net(x), y) / 4).backward()
            if (i + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()


def flushes_the_tail(epochs: int = 4, samples: int = 40, real_size: bool = False) -> None:
    net = model()
    optimizer = adamw(net)
    data = loader(samples)
    full = len(data) // 4 * 4
    for _ in range(epochs):
        for i, (x, y) in enumerate(data):
            size = len(data) % 4 if real_size and i >= full else 4
            (loss_of(net(x), y) / size).backward()
            if (i + 1) % 4 == 0 or i + 1 == len(data):
                optimizer.step()
                optimizer.zero_grad()


def never_steps_the_tail(samples: int = 40) -> None:
    net = model()
    optimizer = adamw(net)
    for i, (x, y) in enumerate(loader(samples)):
        (loss_of(net(x), y) / 4).backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


SNAPSHOTS = {
    "accum-window-uneven": flushes_the_tail,
    "accum-window-uneven-first": steps_on_the_first,
    "accum-window-uneven-lost": loses_the_tail,
    "accum-window-uneven-leaked": leaks_the_tail,
    "accum-window-uneven-pending": never_steps_the_tail,
}


def test_a_first_window_of_one_is_found_at_the_backward_with_both_ends() -> None:
    (finding,) = found(steps_on_the_first)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(steps_on_the_first, "backward()")
    assert finding.places["step"].line == line_of(steps_on_the_first, "optimizer.step()")
    assert "holds 1 micro-batch, the others 4" in finding.seen


def test_a_first_window_of_one_is_found_without_a_loader_and_in_a_short_run() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(17)):
            (loss_of(net(x), y) / 4).backward()
            if i % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()

    (finding,) = found(loop)
    assert finding.severity is Severity.WARNING


def test_a_lost_tail_is_found_with_its_share() -> None:
    (finding,) = found(loses_the_tail)
    assert finding.severity is Severity.WARNING
    assert "last 2 of an epoch of 10" in finding.seen
    assert finding.place is not None
    assert finding.place.line == line_of(loses_the_tail, "backward()")
    assert finding.evidence["cleared_unused"] == 2


def test_a_lost_tail_is_found_where_the_clear_follows_the_loader() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data = loader(40)
        for _ in range(4):
            for i, (x, y) in enumerate(data):
                if i % 4 == 0:
                    optimizer.zero_grad()
                (loss_of(net(x), y) / 4).backward()
                if (i + 1) % 4 == 0:
                    optimizer.step()

    (finding,) = found(loop)
    assert finding.severity is Severity.WARNING


def test_a_tail_that_is_dropped_on_purpose_is_only_said() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data = loader(40)
        for _ in range(4):
            for i, (x, y) in enumerate(data):
                (loss_of(net(x), y) / 4).backward()
                if (i + 1) % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            optimizer.zero_grad(set_to_none=True)

    (finding,) = found(loop)
    assert finding.severity is Severity.INFO


def test_a_tail_that_leaks_is_found_with_its_weight() -> None:
    (finding,) = found(leaks_the_tail)
    assert finding.severity is Severity.WARNING
    assert "holds 6 micro-batches, 2 of them left over" in finding.seen
    assert "1.50 times" in finding.why


def test_a_tail_that_weighs_too_little_is_found_with_its_weight() -> None:
    (finding,) = found(flushes_the_tail)
    assert finding.severity is Severity.WARNING
    assert "2 of 4 micro-batches" in finding.seen
    assert "weighs 0.5 of a full one" in finding.seen


@pytest.mark.parametrize(("epochs", "samples"), [(1, 40), (3, 44), (3, 168)])
def test_a_tail_that_weighs_too_little_is_only_said_where_it_does_little_harm(epochs: int, samples: int) -> None:
    (finding,) = found(lambda: flushes_the_tail(epochs, samples))  # once; three of four; half of one update of 11
    assert finding.severity is Severity.INFO


def test_a_tail_that_is_never_stepped_is_found() -> None:
    (finding,) = found(never_steps_the_tail)
    assert finding.severity is Severity.WARNING
    assert "2 micro-batches that no step used" in finding.seen


def test_a_short_tail_that_is_never_stepped_is_only_said() -> None:
    (finding,) = found(lambda: never_steps_the_tail(4 * 81))
    assert finding.severity is Severity.INFO


def test_silent_on_a_tail_that_is_divided_by_its_real_size() -> None:
    assert found(lambda: flushes_the_tail(real_size=True)) == []


def test_silent_on_windows_that_fit_with_evaluation_between() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data, held_out = loader(32), loader(12)
        for _ in range(4):
            for i, (x, y) in enumerate(data):
                (loss_of(net(x), y) / 4).backward()
                if (i + 1) % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            with torch.no_grad():
                for x, _ in held_out:
                    net(x)

    assert found(loop) == []


def test_silent_on_windows_of_the_usual_length_that_cross_an_epoch() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data, seen = loader(40), 0
        for _ in range(6):
            for x, y in data:
                (loss_of(net(x), y) / 4).backward()
                seen += 1
                if seen % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()

    assert found(loop) == []


def test_silent_on_windows_of_ever_changing_length() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data, seen = loader(160), 0
        for _ in range(2):
            for i, (x, y) in enumerate(data):
                (loss_of(net(x), y) / 4).backward()
                seen += 1
                if seen >= 2 + i * 7 % 5:
                    optimizer.step()
                    optimizer.zero_grad()
                    seen = 0

    assert found(loop) == []


def test_silent_on_a_window_that_grows_during_training() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for k in (1, 2, 4, 4, 4):
            for i, (x, y) in enumerate(loader(64)):
                (loss_of(net(x), y) / k).backward()
                if (i + 1) % k == 0:
                    optimizer.step()
                    optimizer.zero_grad()

    assert found(loop) == []


def test_silent_on_skipped_batches() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data = loader(64)
        for epoch in range(3):
            for i, (x, y) in enumerate(data):
                if (i + epoch) % 6:
                    (loss_of(net(x), y) / 4).backward()
                if (i + 1) % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()

    assert found(loop) == []


def test_silent_on_runs_that_end_early() -> None:
    def stopped(after: int, error: bool) -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(loader(64)):
            (loss_of(net(x), y) / 4).backward()
            if (i + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
            if i == after:
                if error:
                    raise KeyboardInterrupt
                break

    assert found(lambda: stopped(11, error=False)) == []
    assert found(lambda: stopped(9, error=False)) == []

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            stopped(10, error=True)

    assert found(interrupted) == []


def test_silent_on_several_losses_of_one_batch_and_on_two_players() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(3, 4), nn.Linear(4, 1)
        for_generator, for_critic = torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())
        for _ in range(3):
            for x, _ in loader(36):
                critic.zero_grad()
                critic(x).mean().backward()
                fake = generator(torch.randn(4, 3))
                critic(fake.detach()).mean().neg().backward()
                for_critic.step()
                generator.zero_grad()
                critic(fake).mean().backward()
                for_generator.step()

    assert found(loop) == []


def test_hf_trainer_scales_the_last_window_by_its_size(tmp_path: Path) -> None:
    from transformers import Trainer

    arguments = trainers.hf_arguments(str(tmp_path), accumulate=3, steps=9)  # 8 batches: windows of 3, 3, 2
    assert found(Trainer(model=trainers.Net(), args=arguments, train_dataset=trainers.Rows()).train) == []


def accelerate(epochs: int) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    net = model()
    net, optimizer, data = accelerator.prepare(net, adamw(net), loader(40))
    for _ in range(epochs):
        for x, y in data:
            with accelerator.accumulate(net):
                accelerator.backward(loss_of(net(x), y))
                optimizer.step()
                optimizer.zero_grad()


def lightning(epochs: int) -> None:
    import lightning as pl

    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=4,
    )
    trainer.fit(trainers.lightning_module(manual=False), loader(40))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("train", "line"), [(accelerate, "accelerator.backward"), (lightning, "trainer.fit")])
def test_a_framework_that_gives_the_last_window_half_its_weight_is_named(
    train: Callable[[int], None], line: str
) -> None:
    (finding,) = found(lambda: train(3))
    assert finding.severity is Severity.WARNING
    assert f"{train.__name__} divides by 4 there too: its update weighs 0.5 of a full one" in finding.seen
    assert finding.place is not None
    assert finding.place.line == line_of(train, line)
    (once,) = found(lambda: train(1))
    assert once.severity is Severity.INFO
