"""`Loop`: what it does at each place, what its checks say of it, and what it answers to bad input."""

from __future__ import annotations

import copy
import functools
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit import History, Loop, LoopkitError, Run, StopTraining, UsageError, hookimpl, hookspecs
from tests import loops

Batches = list[tuple[Tensor, Tensor]]


def batches(count: int = 5, size: int = 4) -> Batches:
    return [(torch.randn(size, 4), torch.randint(0, 2, (size,))) for _ in range(count)]


def made(data: Any = None, **options: Any) -> Loop:
    net = options.pop("model", None) or loops.model()
    options = {"loss": nn.CrossEntropyLoss(), "autoload": False, **options}
    return Loop(net, torch.optim.SGD(net.parameters(), lr=0.1), batches() if data is None else data, **options)


# -- events ----------------------------------------------------------------------------------------------------

HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, "loopkit_spec")]


def listener() -> Any:
    """A plugin that hears every hook and writes down its name."""
    seen: list[str] = []

    def heard(name: str) -> Callable[..., None]:
        def method(self: Any) -> None:
            seen.append(name)

        return hookimpl(method)

    return type("Listener", (), {name: heard(name) for name in HOOKS} | {"seen": seen})()


def documented() -> list[str]:
    """The events in the order in which the docstring of Loop shows them."""
    lines = (Loop.__doc__ or "").partition("run_started")
    text = "\n".join(lines[1:]).partition("`update_finished`")[0]
    return [name for name in re.findall(r"[a-z_]+", text) if name in HOOKS]


def test_every_event_comes_in_the_order_that_the_docstring_shows() -> None:
    net = loops.model().eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    heard = listener()
    Loop(
        net,
        optimizer,
        batches(1),
        loss=nn.functional.cross_entropy,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        eval_loader=batches(1),
        clip_norm=1.0,
        plugins=[heard],
        autoload=False,
    ).run(epochs=1)
    apart = {"mode_changed", "update_finished", "gradients_unscaled", "step_skipped", "checkpoint_cut"}
    apart.add("before_batch")  # comes once more than there are batches
    expected = [name for name in documented() if name not in apart]
    last = len(expected) - 1 - expected[::-1].index("scheduler_stepped")
    del expected[last]  # per epoch, as another loop has it
    seen = [name for name in heard.seen if name not in apart]
    # Of the numbers there are two after an update, the loss and the rate.
    assert seen[: seen.index("metric_logged")] == expected[: expected.index("metric_logged")]
    assert [name for name, before in zip(seen, ["", *seen], strict=False) if name != before] == expected
    assert heard.seen.count("update_finished") == 1
    assert heard.seen.count("mode_changed") == 3


def test_the_scheduler_may_advance_with_the_epoch() -> None:
    net = loops.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    heard = listener()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    loop = Loop(
        net,
        optimizer,
        batches(2),
        loss=nn.functional.cross_entropy,
        scheduler=scheduler,
        scheduler_per="epoch",
        plugins=[heard],
        autoload=False,
    )
    history = loop.run(epochs=2)
    ends = [name for name in heard.seen if name in ("after_step", "scheduler_stepped", "epoch_finished")]
    assert ends == ["after_step", "after_step", "scheduler_stepped", "epoch_finished"] * 2
    assert [value for _, value in history.of("train/lr")] == [0.1, 0.1, 0.05, 0.05]


def test_epochs_and_batches_are_those_of_the_data() -> None:
    class Counts:
        def __init__(self) -> None:
            self.epochs: list[int] = []
            self.batches = 0

        @hookimpl
        def epoch_finished(self, epoch: int) -> None:
            self.epochs.append(epoch)

        @hookimpl
        def batch_loaded(self) -> None:
            self.batches += 1

    for data in (batches(5), loops_loader()):
        counts = Counts()
        loop = made(data, plugins=[counts], accumulate=2)
        loop.run(epochs=2)
        assert (counts.epochs, counts.batches, loop.updates, loop.epochs) == ([1, 2], 10, 6, 2)


def loops_loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(20, 4), torch.randint(0, 2, (20,))), batch_size=4)


# -- what loopkit's own checks say -----------------------------------------------------------------------------


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def padded(count: int = 7) -> list[dict[str, Tensor]]:
    """Batches of unequal numbers of labels."""
    found = []
    for i in range(count):
        tokens = torch.randint(0, 10, (3, 12))
        labels = tokens.clone()
        labels[:, 1 + 11 * (i % 3) // 2 :] = -100
        found.append({"input_ids": tokens, "labels": labels})
    return found


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("own_loss", [False, True])
def test_the_checks_are_silent(accumulate: int, own_loss: bool) -> None:
    if own_loss:
        loop = made(
            padded(), model=Tokens(), loss=None, accumulate=accumulate, autoload=True, skip=["console", "curves"]
        )
    else:
        data = batches(7)
        for i, (_, y) in enumerate(data):
            y[1 + i % 3 :] = -100
        loop = made(data, accumulate=accumulate, autoload=True, skip=["console", "curves"], eval_loader=batches(2))
    # What the curves of noise look like is the data's doing: `curves` is left out.
    with loopkit.watch(skip=["console", "curves"]) as run:
        loop.run(epochs=12)
    assert not run.failures
    assert [str(finding) for finding in run.findings] == []
    assert run.steps == loop.updates == 12 * math.ceil(7 / accumulate)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_checks_are_silent_with_a_loader_and_a_schedule(accumulate: int) -> None:
    net = loops.model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    total = 10 * math.ceil(5 / accumulate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))
    data = DataLoader(TensorDataset(torch.randn(20, 4), torch.randint(0, 2, (20,))), batch_size=4, shuffle=True)
    loop = Loop(
        net,
        optimizer,
        data,
        loss=nn.CrossEntropyLoss(),
        scheduler=scheduler,
        eval_loader=loops_loader(),
        accumulate=accumulate,
        clip_norm=1.0,
        skip=["console", "curves"],
    )
    with loopkit.watch(skip=["console", "curves"]) as run:
        loop.run(epochs=10)
    assert [str(finding) for finding in run.findings] == []


# -- joining and stopping --------------------------------------------------------------------------------------


class Stops:
    """Asks at a step, in one of the ways there are."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how = at, how

    @hookimpl
    def after_step(self, run: Run) -> None:
        if run.steps + run.step_offset == self.at:
            if self.how == "raise":
                raise StopTraining("enough")
            run.stop("enough")

    @hookimpl
    def metric_logged(self, run: Run, name: str, step: int) -> None:
        if self.how == "metric" and name == "train/loss" and step == self.at:
            run.stop("enough")


@pytest.mark.parametrize("how", ["raise", "stop", "metric"])
def test_a_plugin_ends_it_after_the_update_at_hand(how: str) -> None:
    net = loops.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    plugins = [Stops(3, how)]
    loop = Loop(net, optimizer, batches(), loss=loops_ce, scheduler=scheduler, plugins=plugins, autoload=False)
    with loopkit.watch(autoload=False) as run:
        history = loop.run(epochs=2)
        assert run.stopping is None, "what comes after the loop goes on"
        assert run.loop is None
        assert not run.stops_softly
    assert (loop.updates, loop.epochs, loop.stopped, run.ending) == (3, 0, "enough", "stopped")
    assert scheduler.last_epoch == 3
    assert len(history.of("train/loss")) == 3


loops_ce = nn.CrossEntropyLoss()


def test_an_epoch_that_is_through_is_finished_before_it_stops() -> None:
    loop = made(plugins=[Stops(5, "stop")], eval_loader=batches(1))
    loop.run(epochs=3)
    assert (loop.updates, loop.epochs, loop.stopped) == (5, 1, "enough")
    assert list(loop.latest) == ["val/loss"]
    loop.run(epochs=2)
    assert (loop.updates, loop.stopped) == (10, None)


def test_a_number_from_anywhere_is_in_the_history_at_its_step() -> None:
    def step(model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = loops_ce(model(batch[0]), batch[1])
        loopkit.log("mine", 0.5)
        return loss

    for plugins in ((), (Stops(99, "stop"),)):
        loop = made(batches(3), loss=None, step=step, plugins=plugins)
        loop.run(max_updates=2)
        other = made(batches(3), loss=None, step=step, plugins=plugins)
        other.load_state_dict(copy.deepcopy(loop.state_dict()))
        other.run(epochs=1)
        assert loop.history.of("mine") == [(0, 0.5), (1, 0.5)]
        assert other.history.of("mine") == [(2, 0.5)]


def test_where_nobody_listens_torch_is_not_listened_to() -> None:
    seen: list[bool] = []
    original = torch.autograd.backward

    def step(model: nn.Module, batch: Any) -> Tensor:
        seen.append(torch.autograd.backward is original)
        loss: Tensor = loops_ce(model(batch[0]), batch[1])
        return loss

    made(batches(1), loss=None, step=step).run(epochs=1)
    made(batches(1), loss=None, step=step, plugins=[Stops(9, "stop")]).run(epochs=1)
    with loopkit.watch(autoload=False) as run:
        made(batches(1), loss=None, step=step).run(epochs=1)
    assert seen == [True, False, False]
    assert run.steps == 1


class Remembers:
    """A plugin with a state."""

    def __init__(self) -> None:
        self.count = 0

    @hookimpl
    def after_step(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_plugins_remember_across_runs_and_states() -> None:
    loop = made(plugins=[Remembers])
    loop.run(max_updates=2)
    loop.run(max_updates=3)
    state = loop.state_dict()
    assert state["plugins"] == {"remembers": {"count": 3}}
    plugin = Remembers()
    other = made(plugins=[plugin])
    other.load_state_dict(copy.deepcopy(state))
    other.run(max_updates=4)
    assert plugin.count == 4


def test_a_state_taken_by_a_plugin_in_the_middle_is_as_good_as_one_at_the_end() -> None:
    taken: dict[int, Any] = {}

    class Saves:
        @hookimpl
        def metric_logged(self, run: Run, name: str, step: int) -> None:
            if name == "train/lr":
                taken[step] = copy.deepcopy(run.loop.state_dict())

        @hookimpl
        def evaluation_finished(self, run: Run) -> None:
            taken[100] = copy.deepcopy(run.loop.state_dict())

    torch.manual_seed(0)
    data = TensorDataset(torch.randn(12, 4), torch.randint(0, 2, (12,)))

    def loader() -> DataLoader[Any]:
        return DataLoader(data, 4, shuffle=True)

    whole = made(loader(), plugins=[Saves], eval_loader=loader())
    whole.run(epochs=2)
    end = copy.deepcopy(whole.model.state_dict())
    for step in (1, 2, 3, 4, 100):
        other = made(loader(), eval_loader=loader())
        other.load_state_dict(taken[step])
        history = other.run(epochs=2)
        assert all(torch.equal(end[name], value) for name, value in other.model.state_dict().items()), step
        assert len(history.of("val/loss")) == (0 if step == 100 else 2 if step < 4 else 1), step


class KeepsItsPlace:
    """A loader as torchdata's StatefulDataLoader is one."""

    def __init__(self, data: Batches) -> None:
        self.data, self.at, self.loaded = data, 0, 0

    def __iter__(self) -> Iterator[Any]:
        while self.at < len(self.data):
            self.at += 1
            self.loaded += 1
            yield self.data[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_a_loader_that_keeps_its_place_is_asked_for_it() -> None:
    data = batches(5)
    straight = made(KeepsItsPlace(data), model=copy.deepcopy(NET))
    straight.run(max_updates=8)
    first = made(KeepsItsPlace(data), model=copy.deepcopy(NET))
    first.run(max_updates=3)
    loader = KeepsItsPlace(data)
    second = made(loader, model=copy.deepcopy(NET))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.run(max_updates=8)
    assert loader.loaded == 5, "what was trained on is not loaded again"
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


NET = loops.model()


def test_skipped_batches_are_not_loaded() -> None:
    class Rows(TensorDataset):
        asked = 0

        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            type(self).asked += 1
            found: tuple[Tensor, ...] = super().__getitem__(index)
            return found

    rows = Rows(torch.randn(20, 4), torch.randint(0, 2, (20,)))
    first = made(DataLoader(rows, 2, shuffle=True))
    first.run(max_updates=7)
    Rows.asked = 0
    second = made(DataLoader(rows, 2, shuffle=True))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.run(epochs=1)
    assert Rows.asked == 6


# -- evaluation ------------------------------------------------------------------------------------------------


class Accuracy:
    """As torchmetrics has them."""

    def __init__(self) -> None:
        self.right = self.all = 0

    def reset(self) -> None:
        self.right = self.all = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        self.right += int((output.argmax(-1) == target).sum())
        self.all += len(target)

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.all)


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(-1) == target).float().mean()


def test_an_evaluation_counts_every_sample_once() -> None:
    data = [*batches(2, size=7), *batches(1, size=2)]
    loop = made(eval_loader=data, metrics={"accuracy": accuracy, "same": Accuracy()})
    numbers = loop.evaluate()
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    loop.model.eval()
    output = loop.model(x)
    assert numbers["val/loss"] == pytest.approx(nn.functional.cross_entropy(output, y).item())
    assert numbers["val/accuracy"] == pytest.approx(accuracy(output, y).item())
    assert numbers["val/same"] == pytest.approx(numbers["val/accuracy"])
    assert loop.history.names() == ["val/loss", "val/accuracy", "val/same"]


def test_metrics_of_torchmetrics_and_several_at_once() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    both = torchmetrics.MetricCollection(
        {
            "top": torchmetrics.classification.MulticlassAccuracy(2, average="micro"),
            "f1": torchmetrics.classification.MulticlassF1Score(2),
        }
    )
    loop = made(eval_loader=batches(3), metrics={"both": both, "accuracy": accuracy})
    numbers = loop.evaluate()
    assert set(numbers) == {"val/loss", "val/accuracy", "val/top", "val/f1"}
    assert numbers["val/top"] == pytest.approx(numbers["val/accuracy"])


def test_metrics_of_a_model_with_its_own_loss_get_its_logits() -> None:
    seen: list[torch.Size] = []

    def shape(output: Tensor, target: Tensor) -> float:
        seen.append(output.shape)
        return 0.0

    made(padded(), model=Tokens(), loss=None, eval_loader=padded(1), metrics={"shape": shape}).evaluate()
    assert seen == [torch.Size([3, 12, 10])]


def test_an_evaluation_leaves_every_mode_as_it_was() -> None:
    net = loops.model()
    net[0].eval()  # frozen, as BatchNorm often is
    loop = made(model=net, eval_loader=batches(1))
    loop.evaluate()
    assert [module.training for module in net.modules()] == [True, False, True, True]
    net.eval()
    loop.evaluate()
    assert not any(module.training for module in net.modules())
    assert torch.is_grad_enabled()


def test_evaluations_may_come_more_often() -> None:
    history = made(batches(5), eval_loader=batches(1), evaluate_every=2).run(epochs=2)
    assert [step for step, _ in history.of("val/loss")] == [2, 4, 6, 8, 10]


# -- the history -----------------------------------------------------------------------------------------------


def test_pandas_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    history = made().run(epochs=1)
    pytest.importorskip("pandas")
    assert list(history.to_frame().columns) == ["step", "name", "value"]
    assert len(history.to_frame()) == len(history)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        history.to_frame()


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"schema": 7, "rows": []}', '{"schema": 1, "rows": [1]}'])
def test_what_is_no_history_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="history"):
        History.from_json(text)


def test_numbers_on_a_device_are_not_read_when_they_come() -> None:
    history = History()
    for step in range(10):
        history.add("x", torch.tensor(float(step), device="meta"), step)  # which nobody can read
    assert len(history) == 10
    with pytest.raises((NotImplementedError, RuntimeError)):
        history.of("x")


def test_numbers_on_a_device_are_read_at_last_and_each_is_its_own() -> None:
    class Distant(Tensor):
        is_cpu = False

    history = History()
    for step in range(3000):
        history.add("x", torch.tensor(float(step)).as_subclass(Distant), step)
        history.add("y", -float(step), step)
    assert history.of("x") == [(step, float(step)) for step in range(3000)]
    assert history.of("y") == [(step, -float(step)) for step in range(3000)]


# -- bad input -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "neither": (lambda: made().run(), "one of the two"),
    "both": (lambda: made().run(epochs=1, max_updates=1), "one of the two"),
    "less than nothing": (lambda: made().run(epochs=-1), "0 or more"),
    "empty": (lambda: made([]).run(epochs=1), "training loader, a list, is empty"),
    "empty loader": (
        lambda: made(DataLoader(TensorDataset(torch.ones(0)), batch_size=2)).run(epochs=1),
        "training loader.* is empty",
    ),
    "exhausted": (lambda: made(iter(batches())).run(epochs=2), "walked only once"),
    "empty evaluation": (lambda: made(eval_loader=[]).run(epochs=1), "evaluation loader, a list, is empty"),
    "no evaluation": (lambda: made().evaluate(), "eval_loader="),
    "no scalar": (lambda: made(loss=nn.CrossEntropyLoss(reduction="none")).run(epochs=1), r"shape \[4\].*reduce it"),
    "a float": (
        lambda: made(loss=lambda output, target: output.sum().item()).run(epochs=1),
        "a float, not a number|not a",
    ),
    "not connected": (lambda: made(loss=lambda output, target: output.detach().sum()).run(epochs=1), "not connected"),
    "no loss": (lambda: made(loss=None, data=[batches(1)[0][:1]]).run(epochs=1), "without a loss.*loss="),
    "no pair": (lambda: made([torch.ones(2, 4)]).run(epochs=1), "a batch is .input, target."),
    "no target": (lambda: made([{"x": torch.ones(2, 4)}]).run(epochs=1), "labels or label"),
    "no samples": (lambda: made([(1.0, 2.0), (1.0, 2.0)], accumulate=2).run(epochs=1), "weight="),
    "accumulate": (lambda: made(accumulate=0), "accumulate is 1 or more"),
    "evaluate_every": (lambda: made(evaluate_every=0), "evaluate_every is 1 or more"),
    "clip_norm": (lambda: made(clip_norm=0.0), "clip_norm is above 0"),
    "precision": (lambda: made(precision="fp61"), "did you mean 'fp16'"),
    "fp16 on the CPU": (lambda: made(precision="fp16", device="cpu"), "CUDA.*use 'bf16'"),
    "device": (lambda: made(device="gpu"), "no device 'gpu'"),
    "scheduler_per": (lambda: made(scheduler_per="batch"), "'update' or 'epoch'"),
    "plateau": (lambda: plateau("epoch", None), "eval_loader="),
    "plateau each update": (lambda: plateau("update", batches(1)), 'scheduler_per="epoch"'),
    "loss and step": (lambda: made(step=lambda model, batch: None), "not both"),
    "LBFGS": (lambda: Loop(NET, torch.optim.LBFGS(NET.parameters()), []), "closure"),
    "no optimizer": (lambda: Loop(NET, NET, []), "not a Sequential"),  # type: ignore[arg-type]
    "metrics": (lambda: made(metrics=[accuracy]), "dict of names"),
    "a metric": (lambda: made(metrics={"accuracy": 1}), "neither a function"),
    "a state of nothing": (lambda: made().load_state_dict({"model": {}}), "no state of a Loop"),
    "a later state": (lambda: made().load_state_dict({"loopkit": 99}), "schema 99"),
    "a part of a state": (lambda: made().load_state_dict({"loopkit": 1, "updates": 1}), "has no epochs"),
    "another model": (
        lambda: made().load_state_dict(made(model=other_net()).state_dict()),
        "lacks 2.weight.*has also 1",
    ),
    "another shape": (
        lambda: made().load_state_dict(made(model=wide()).state_dict()),
        r"0.weight \[9, 4\] instead of",
    ),
}


def other_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2))


def plateau(per: str, data: Any) -> Loop:
    net = loops.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return Loop(
        net,
        optimizer,
        batches(2),
        loss=loops_ce,
        scheduler=scheduler,
        scheduler_per=per,
        eval_loader=data,
        autoload=False,
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_with_what_to_do(name: str) -> None:
    action, message = REFUSED[name]
    with pytest.raises(UsageError, match=message):
        action()


def test_a_generator_is_enough_for_one_epoch() -> None:
    loop = made(iter(batches()))
    loop.run(epochs=1)
    assert loop.updates == 5


def test_a_window_longer_than_the_epoch_is_the_epoch() -> None:
    loop = made(accumulate=100)
    loop.run(epochs=2)
    assert loop.updates == 2


def test_a_loss_that_is_no_number_is_logged_and_training_goes_on() -> None:
    history = made(loss=lambda output, target: output.mean() * math.nan).run(epochs=1)
    losses = [value for _, value in history.of("train/loss")]
    assert len(losses) == 5
    assert all(map(math.isnan, losses))


def test_a_batch_without_a_single_target_weighs_nothing() -> None:
    data = batches(2)
    data[0][1][:] = -100
    loop = made(data, accumulate=2)
    loss = nn.functional.cross_entropy(loop.model(data[1][0]), data[1][1])
    history = loop.run(epochs=1)
    assert dict(history.of("train/loss")) == pytest.approx({1: loss.item()})
    assert all(torch.isfinite(each).all() for each in loop.model.parameters())


def test_what_a_batch_weighs_may_be_said() -> None:
    data = batches(2)
    net = loops.model()
    other = copy.deepcopy(net)
    weights = iter([3, 1])
    made(data, model=net, accumulate=2, weight=lambda batch: next(weights)).run(epochs=1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    ((loops_ce(other(data[0][0]), data[0][1]) * 3 + loops_ce(other(data[1][0]), data[1][1])) / 4).backward()
    optimizer.step()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_partial_says_what_it_ignores() -> None:
    data = batches(2)
    data[0][1][:] = 1
    loop = made(data, accumulate=2, loss=functools.partial(nn.functional.cross_entropy, ignore_index=1))
    expected = nn.functional.cross_entropy(loop.model(data[1][0]), data[1][1], ignore_index=1)
    assert dict(loop.run(epochs=1).of("train/loss")) == pytest.approx({1: expected.item()})


@pytest.mark.parametrize("total", [3, 5, 50])
def test_a_schedule_may_be_shorter_or_longer_than_the_run(total: int) -> None:
    net = loops.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total, anneal_strategy="linear")
    loop = Loop(net, optimizer, batches(), loss=loops_ce, scheduler=scheduler, autoload=False)
    if total == 3:
        with pytest.warns(UserWarning, match="made for 3 steps"):
            loop.run(epochs=1)
        assert optimizer.param_groups[0]["lr"] > 0
    else:
        loop.run(epochs=1)
    assert loop.updates == 5


def test_a_plateau_follows_the_evaluation() -> None:
    loop = plateau("epoch", batches(1))
    loop.latest = {}
    loop.optimizer.param_groups[0]["lr"] = 0.0
    loop.run(epochs=3)  # no progress at all
    assert loop.scheduler.num_bad_epochs or loop.scheduler.best == loop.latest["val/loss"]


def test_bf16_computes_in_it_and_keeps_the_parameters() -> None:
    seen: list[torch.dtype] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append(output.dtype)
        return nn.functional.cross_entropy(output.float(), target)

    loop = made(loss=loss, precision="bf16")
    loop.run(max_updates=1)
    assert seen == [torch.bfloat16]
    assert all(each.dtype is torch.float32 for each in loop.model.parameters())


def test_a_scaler_that_leaves_out_every_step_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = made(loss=lambda output, target: output.mean() * math.inf)
    loop._precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with pytest.raises(LoopkitError, match="no finite gradient"):
        loop.run(epochs=1)
    assert loop.updates == 0


def test_a_scaler_changes_nothing_where_it_is_not_needed() -> None:
    data = batches()
    one, two = (made(data, model=copy.deepcopy(NET), clip_norm=0.1, accumulate=2) for _ in range(2))
    one._precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert dict(one.run(epochs=2).of("train/loss")) == pytest.approx(dict(two.run(epochs=2).of("train/loss")))
    assert one.updates == 6
    assert "scaler" in one.state_dict()
    for each, other in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(each, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_fp16_on_a_gpu() -> None:
    loop = made(precision="fp16", clip_norm=1.0, accumulate=2, eval_loader=batches(1))
    assert loop.device.type == "cuda"
    history = loop.run(epochs=5)
    assert loop.updates
    assert history.of("val/loss")
