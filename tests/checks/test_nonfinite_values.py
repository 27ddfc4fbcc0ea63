"""nonfinite-values: where a loss stopped being finite, and whether the weights are lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import loopkit
from loopkit import Finding, Finiteness, Severity
from tests.frameworks import trainers
from tests.loops import batches, loader, loss_of
from tests.watched import find, line_of

NAN = float("nan")


class Net(nn.Module):
    """Its second layer takes a logarithm, whose argument is 0 where `zero` says so."""

    def __init__(self, bad_from: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.log = Log(bad_from)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.log(self.first(x)))
        return out


class Log(nn.Module):
    def __init__(self, bad_from: int) -> None:
        super().__init__()
        self.calls = 0
        self.bad_from = bad_from

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.log(x.abs() + 1.0) if self.calls <= self.bad_from else torch.log(x - x.abs())


def train(net: nn.Module, data: Any, lr: float = 0.01, loss: Callable[[Tensor, Tensor], Tensor] = loss_of) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for x, y in data:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()


def nan_in_a_module() -> None:
    train(Net(), loader())


def nan_in_the_data() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    train(net, ((x.index_fill(1, torch.tensor([2]), NAN), y) for x, y in batches()))


def runs_away() -> None:
    train(nn.Linear(4, 2), batches(300), lr=30.0)


def nan_that_is_skipped() -> None:
    net = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for i, (x, y) in enumerate(batches(4)):
        optimizer.zero_grad()
        loss = loss_of(net(x), y) * (NAN if i == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


SNAPSHOTS = {
    "nonfinite-values": nan_in_a_module,
    "nonfinite-values-input": nan_in_the_data,
    "nonfinite-values-grown": runs_away,
    "nonfinite-values-skipped": nan_that_is_skipped,
}


def only(loop: Callable[[], Any]) -> Finding:
    """The one finding of this rule."""
    (found,) = [each for each in find(loop) if each.rule == "nonfinite-values"]
    return found


def test_names_the_module_the_step_and_the_batch() -> None:
    found = only(nan_in_a_module)
    assert found.severity is Severity.ERROR
    assert found.place is not None
    assert found.place.line == line_of(train, ".backward()")
    assert (found.step, found.evidence["batch"]) == (0, 1)
    assert (found.evidence["origin"], found.evidence["module"]) == ("module", "Net.log")
    assert found.evidence["lost"] == 4
    assert found.evidence["lost_before"] == 0


def test_names_the_input() -> None:
    found = only(nan_in_the_data)
    assert found.severity is Severity.ERROR
    assert "4 of 16 values given to the model in argument 1 are not finite" in found.seen


def test_names_what_lies_around_modules_and_what_lies_behind_the_model() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x) / 0.0)
            return out

    def behind(loss: Callable[[Tensor, Tensor], Tensor]) -> Finding:
        return only(lambda: train(nn.Linear(4, 2), batches(), loss=loss))

    around = only(lambda: train(Around(), batches()))
    assert (around.evidence["origin"], around.evidence["module"]) == ("around", "Around.last")
    logarithm = behind(lambda output, y: output.abs().neg().log().mean())
    assert (logarithm.evidence["origin"], logarithm.evidence["module"]) == ("operation", "a logarithm")
    assert "8 of 8 values" in logarithm.seen
    division = behind(lambda output, y: output.sum() / y.abs().lt(0).sum().float())
    assert (division.evidence["origin"], division.evidence["module"]) == ("operation", "a division")
    target = behind(lambda output, y: loss_of(output, y.index_fill(0, torch.tensor([1]), NAN)))
    assert "2 of 8 of its targets are not finite" in target.seen
    assert behind(lambda output, y: (output * 1e30).square().mean()).evidence["origin"] == "loss"


def test_a_gradient_that_is_not_finite_shows_in_the_weights() -> None:
    def loop() -> None:
        net = nn.Linear(4, 2, bias=False)
        net.weight.data.zero_()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for x, _ in batches():
            optimizer.zero_grad()
            (net(x) ** 2).sum().sqrt().backward()
            optimizer.step()

    found = only(loop)
    assert found.severity is Severity.ERROR
    assert (found.step, found.evidence["origin"], found.evidence["lost_before"]) == (1, "weights", 1)
    assert "Linear.weight" in found.seen


@pytest.mark.parametrize("at", [70, 21])
def test_the_step_and_the_batch_are_known_long_after(at: int) -> None:
    def loop() -> None:
        train(Net(bad_from=at), loader(samples=800))

    found = only(loop)
    assert found.severity is Severity.ERROR
    assert (found.step, found.evidence["batch"]) == (at, at + 1)
    assert "the module is not known: it was noticed" in found.seen


def test_a_loss_that_runs_away_is_told_from_one_bad_value() -> None:
    found = only(runs_away)
    assert found.severity is Severity.ERROR
    assert "it had grown from" in found.seen
    assert "learning rate" in found.remedy


def test_a_short_run_is_read_when_it_ends() -> None:
    def loop() -> None:
        train(Net(bad_from=5), batches(7))

    assert only(loop).step == 5


def test_warns_where_the_trainer_hides_it() -> None:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": loss_of(self.inner(x), labels) * NAN}

    rows = [{"x": torch.randn(4), "labels": torch.randn(2)} for _ in range(8)]

    def loop(**options: Any) -> None:
        arguments = TrainingArguments(
            "unused", max_steps=3, per_device_train_batch_size=2, save_strategy="no", report_to=[], use_cpu=True,
            disable_tqdm=True, **options,
        )  # fmt: skip
        Trainer(Model(), arguments, train_dataset=rows).train()

    assert "HF Trainer logs 0.0 in its place" in only(loop).why
    assert "HF Trainer" not in only(lambda: loop(logging_nan_inf_filter=False)).why


def test_found_in_a_loop_without_an_optimizer() -> None:
    def loop() -> None:
        net = nn.Linear(4, 2)
        for x, y in batches(8):
            net.zero_grad()
            loss_of(net(x), y * NAN).backward()
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter.data.add_(parameter.grad, alpha=-0.01)
        kept.append(net)

    kept: list[nn.Module] = []
    assert only(loop).severity is Severity.ERROR


def test_nothing_of_the_model_is_held_when_the_watch_has_closed() -> None:
    import gc
    import weakref

    def loop() -> weakref.ref[nn.Module]:
        net = Net(bad_from=9)
        net(torch.randn(4, 4))  # with gradients on, and never sent backward
        return weakref.ref(net)

    with loopkit.watch(skip=["console"]) as run:
        known = loop()
    gc.collect()
    assert run.findings == []
    assert known() is None


# -- what looks like it ----------------------------------------------------------------------------------


def test_only_told_where_a_scaler_left_the_step_out_or_the_loop_guards_itself() -> None:
    def guards() -> None:
        net = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for i, (x, y) in enumerate(batches(4)):
            optimizer.zero_grad()
            loss = loss_of(net(x), y) * (NAN if i == 1 else 1.0)
            loss.backward()
            if torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0).isfinite():
                optimizer.step()

    skipped, guarded = only(nan_that_is_skipped), only(guards)
    assert skipped.severity is Severity.INFO
    assert "the GradScaler left the step out" in skipped.seen
    assert guarded.severity is Severity.INFO
    assert "the weights are whole" in guarded.seen


def test_silent_on_a_scale_that_settles() -> None:
    def loop() -> None:
        net = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        for x, y in batches(8):
            optimizer.zero_grad()
            scaler.scale(loss_of(net(x), y) * 8).backward()
            scaler.step(optimizer)
            scaler.update()

    assert find(loop) == []


def test_silent_on_masks_of_minus_infinity_and_on_targets_that_are_filtered() -> None:
    def masked() -> None:
        net = nn.Linear(4, 4)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for x, _ in batches():
            optimizer.zero_grad()
            scores = net(x).masked_fill(torch.eye(4).bool(), float("-inf"))
            scores.softmax(-1).square().mean().backward()
            optimizer.step()

    def filtered() -> None:
        net = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for x, y in batches():
            y[0] = NAN
            optimizer.zero_grad()
            seen = ~y.isnan()
            loss_of(net(x)[seen], y[seen]).backward()
            optimizer.step()

    assert find(masked) == []
    assert find(filtered) == []


# -- it changes nothing ----------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Draws random numbers of every kind, counts its calls, keeps statistics and changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x.add_(random.random())
        out: Tensor = self.drop(self.norm(self.inner(x)))
        return out / 0.0 * 0.0


def test_replaying_changes_neither_model_nor_input_nor_random_states() -> None:
    def run() -> tuple[Any, ...]:
        torch.manual_seed(0)
        random.seed(0)
        net = Noisy()
        data = [(torch.randn(4, 4), torch.randn(4, 4)) for _ in range(2)]
        train(net, data)
        state = {name: value.tolist() for name, value in net.state_dict().items()}
        return str(state), net.calls, str(data), torch.rand(1), random.random()

    bare = run()
    with loopkit.watch(skip=["console"]) as watched:
        seen = run()
    assert [each.rule for each in watched.findings] == ["nonfinite-values"]
    assert watched.findings[0].evidence["origin"] == "module"
    assert seen == bare


def test_what_holds_hooks_of_the_users_own_is_not_replayed() -> None:
    outputs = []

    def loop() -> None:
        net = Net()
        net.first.register_forward_hook(lambda module, args, output: outputs.append(output))
        train(net, batches(2))

    found = only(loop)
    assert len(outputs) == 2
    assert "hooks are installed on its Linear" in found.seen


def test_no_loss_and_no_input_is_kept() -> None:
    import gc
    import weakref

    inputs: list[weakref.ref[Tensor]] = []

    def data() -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in batches(40):
            inputs.append(weakref.ref(x))
            yield x, y

    with loopkit.watch(skip=["console"]) as run:
        train(nn.Linear(4, 2), data())
        gc.collect()
        assert all(known() is None for known in inputs)
        assert run.instrument(Finiteness)._kept == []


def test_frameworks_stay_silent() -> None:
    assert [each for each in find(trainers.accelerate) if each.rule == "nonfinite-values"] == []
