"""accum-scale-wrong: the factor of a window's gradient is said, and what is meant is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from tests.frameworks import trainers
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of

RULE = "accum-scale-wrong"
cross_entropy = nn.functional.cross_entropy


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [finding for finding in find(loop) if finding.rule == RULE]


def not_divided() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for i, (x, y) in enumerate(loader(96)):
        loss_of(net(x), y).backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


def divided_twice() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for i, (x, y) in enumerate(loader(96)):
        loss = loss_of(net(x), y) / 4
        (loss / 4).backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


SNAPSHOTS = {"accum-scale-wrong": not_divided, "accum-scale-wrong-twice": divided_twice}


def window(
    weigh: Callable[[Tensor], Tensor], k: int = 4, steps: int = 5, loss_fn: Any = loss_of
) -> Callable[[], None]:
    """A loop over a loader that steps after k micro-batches, whose losses are weighed."""

    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(loader(4 * k * steps)):
            weigh(loss_fn(net(x), y)).backward()
            if (i + 1) % k == 0:
                optimizer.step()
                optimizer.zero_grad()

    return loop


def test_not_divided_is_found_at_the_backward_with_both_ends_and_the_factor() -> None:
    (finding,) = found(not_divided)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(not_divided, "backward()")
    assert finding.places["step"].line == line_of(not_divided, "optimizer.step()")
    assert "4.0 times the mean" in finding.seen
    assert finding.evidence["gradient_over_mean"] == 4.0


def test_divided_twice_is_found_with_the_factor() -> None:
    (finding,) = found(divided_twice)
    assert "1/4 of the mean" in finding.seen
    assert finding.evidence["gradient_over_mean"] == 0.25


def test_found_in_a_run_of_one_window() -> None:
    (finding,) = found(window(lambda loss: loss, steps=1))
    assert finding.evidence["gradient_over_mean"] == 4.0


def test_found_under_a_grad_scaler() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        scaler = torch.amp.GradScaler("cpu")
        for i, (x, y) in enumerate(loader(64)):
            scaler.scale(loss_of(net(x), y)).backward()
            if (i + 1) % 4 == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()

    assert len(found(loop)) == 1


def test_found_with_a_tail_and_with_a_second_term() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(3):
            data = loader(40)
            for i, (x, y) in enumerate(data):
                out = net(x)
                (loss_of(out, y) + 0.1 * out.abs().mean()).backward()
                if (i + 1) % 4 == 0 or i + 1 == len(data):
                    optimizer.step()
                    optimizer.zero_grad()

    (finding,) = found(loop)
    assert finding.evidence["micro_batches"] == 4


def test_found_where_the_last_backward_of_a_window_stands_on_its_own_line() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(loader(64)):
            if (i + 1) % 4:
                loss_of(net(x), y).backward()  # under DDP: inside no_sync()
                continue
            loss_of(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert len(found(loop)) == 1


def test_found_without_a_loader_in_longer_windows_of_plain_losses() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(40)):
            loss_of(net(x), y).backward()
            if (i + 1) % 8 == 0:
                optimizer.step()
                optimizer.zero_grad()

    (finding,) = found(loop)
    assert finding.evidence["gradient_over_mean"] == 8.0


def test_found_where_the_batches_of_a_window_are_fetched_first() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data = iter(loader(96))
        for _ in range(6):
            for x, y in [next(data) for _ in range(4)]:
                loss_of(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    (finding,) = found(loop)
    assert finding.severity is Severity.WARNING


def _token_loss(reduction: str, denominator: float | None) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        value = cross_entropy(out, y.argmax(1), reduction=reduction)
        return value if denominator is None else value / denominator

    return loss


def test_a_sum_by_its_own_count_is_not_divided_either() -> None:
    (finding,) = found(window(lambda loss: loss, loss_fn=_token_loss("sum", 4)))
    assert finding.evidence["gradient_over_mean"] == pytest.approx(4)


def test_a_sum_by_the_windows_count_and_by_its_length_is_divided_twice() -> None:
    (finding,) = found(window(lambda loss: loss / 4, loss_fn=_token_loss("sum", 16)))
    assert finding.evidence["gradient_over_mean"] == pytest.approx(0.25)


@pytest.mark.parametrize("k", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "weigh",
    [
        pytest.param(lambda k: lambda loss: loss / k, id="divided"),
        pytest.param(lambda k: lambda loss: loss * (1 / k), id="multiplied"),
        pytest.param(lambda k: lambda loss: loss / torch.tensor(float(k)), id="by a tensor"),
        pytest.param(lambda k: lambda loss: 0.3 * loss / k, id="weighted"),
        pytest.param(lambda k: lambda loss: (0.5 * loss + 0.5 * loss.square()) / k, id="a sum of two"),
        pytest.param(lambda k: lambda loss: 0.7 * loss, id="a constant of its own"),
    ],
)
def test_silent_on_losses_that_are_divided(weigh: Callable[[int], Callable[[Tensor], Tensor]], k: int) -> None:
    assert found(window(weigh(k), k)) == []


def test_silent_on_a_halved_loss_in_windows_of_two() -> None:
    assert found(window(lambda loss: 0.5 * loss / 2, k=2)) == []


def test_silent_on_sums() -> None:
    assert found(window(lambda loss: loss, loss_fn=_token_loss("sum", None))) == []
    assert found(window(lambda loss: loss, loss_fn=_token_loss("sum", 16))) == []


def test_silent_on_several_losses_of_one_batch() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader(64):
            for view in (x, x.flip(0), x + 0.1, x * 1.1):
                loss_of(net(view), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert found(loop) == []


def test_silent_on_several_domains_through_one_helper() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        streams = [iter(loader(32)) for _ in range(4)]
        for _ in range(8):
            for stream in streams:
                x, y = next(stream)
                loss_of(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert found(loop) == []


class Tasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.heads = nn.Linear(4, 8), nn.ModuleList([nn.Linear(8, 2) for _ in range(4)])

    def forward(self, x: Tensor, task: int) -> Any:
        return self.heads[task](self.body(x))


def test_silent_on_tasks_with_heads_of_their_own() -> None:
    def loop() -> None:
        net = Tasks()
        optimizer = adamw(net)
        data = iter(loader(128))
        for _ in range(8):
            for task in range(4):
                x, y = next(data)
                loss_of(net(x, task), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert found(loop) == []


def test_silent_on_windows_of_changing_length() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        data = iter(loader(200))
        for k in (3, 5, 2, 4, 6, 3, 5):
            for _ in range(k):
                x, y = next(data)
                loss_of(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert found(loop) == []


def test_silent_without_a_loader_on_few_backwards_and_on_losses_by_hand() -> None:
    def loop(k: int, by_hand: bool) -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(batches(6 * k)):
            loss = (net(x) * y).mean() if by_hand else loss_of(net(x), y)
            loss.backward()
            if (i + 1) % k == 0:
                optimizer.step()
                optimizer.zero_grad()

    assert found(lambda: loop(3, by_hand=False)) == []
    assert found(lambda: loop(6, by_hand=True)) == []


def test_silent_on_gradient_penalties_and_kept_graphs() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for i, (x, y) in enumerate(loader(64)):
            loss_of(net(x), y).backward(retain_graph=True)
            if (i + 1) % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()

    assert found(loop) == []


def test_silent_in_frameworks_and_found_when_the_user_divides_too(tmp_path: Path) -> None:
    assert found(lambda: trainers.hf(str(tmp_path), 4)) == []
    assert found(lambda: trainers.accelerate(4)) == []
    assert found(lambda: trainers.lightning(trainers.lightning_module(manual=False), 4)) == []

    class TakesKeywords(trainers.Net):
        def forward(self, x: Tensor, labels: Tensor, **kwargs: Any) -> dict[str, Tensor]:
            return super().forward(x, labels)

    def left_to_the_model() -> None:
        from transformers import Trainer

        arguments = trainers.hf_arguments(str(tmp_path), accumulate=3, steps=6)
        Trainer(model=TakesKeywords(), args=arguments, train_dataset=trainers.Rows()).train()

    (finding,) = found(left_to_the_model)
    assert finding.severity is Severity.INFO
    assert "num_items_in_batch" in finding.remedy

    def divides_too() -> None:
        import accelerate

        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
        net = model()
        net, optimizer, data = accelerator.prepare(net, adamw(net), loader(64))
        for x, y in data:
            with accelerator.accumulate(net):
                accelerator.backward(loss_of(net(x), y) / 4)
                optimizer.step()
                optimizer.zero_grad()

    (finding,) = found(divides_too)
    assert finding.place is not None
    assert finding.place.line == line_of(divides_too, "accelerator.backward")
    assert "accelerate" in finding.remedy
