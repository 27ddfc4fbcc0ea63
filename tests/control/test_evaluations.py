"""Evaluations of foreign loops: where they begin and end, and what their loss was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit import Run, hookimpl
from tests.loops import adamw, loss_of, model


class Heard:
    """Writes down evaluations and metrics, with the steps executed by then."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def evaluation_started(self, run: Run) -> None:
        self.seen.append(f"start {run.steps}")

    @hookimpl
    def evaluation_finished(self, run: Run) -> None:
        self.seen.append(f"finish {run.steps}")

    @hookimpl
    def metric_logged(self, name: str, value: Any, step: int) -> None:
        self.seen.append((name, round(float(value), 5), step))


def heard(loop: Callable[[], Any]) -> list[Any]:
    plugin = Heard()
    with loopkit.watch(plugins=[plugin], autoload=False) as run:
        loop()
    assert run.not_checked() == [] or not run.failures
    return plugin.seen


def data(samples: int = 10, batch_size: int = 4) -> DataLoader[tuple[Tensor, ...]]:
    features = torch.randn(samples, 4)
    return DataLoader(TensorDataset(features, features[:, :2].clone()), batch_size=batch_size)


def epoch(net: nn.Module, optimizer: torch.optim.Optimizer, loader: Any, loss: Any = loss_of) -> None:
    net.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()


def test_the_mean_is_weighted_by_samples_and_an_evaluation_lasts_until_training_goes_on() -> None:
    net, train, val = model(), data(), data(7, 3)
    optimizer = adamw(net)
    told: list[float] = []

    def loop() -> None:
        for _ in range(2):
            epoch(net, optimizer, train)
            net.eval()
            total = 0.0
            with torch.no_grad():
                for x, y in val:
                    total += loss_of(net(x), y).item() * len(x)  # a name imported before the watch
            told.append(total / 7)

    seen = heard(loop)
    first, second = (round(each, 5) for each in told)
    assert seen == [
        *("start 3", ("val/loss", first, 3), "finish 3"),
        *("start 6", ("val/loss", second, 6), "finish 6"),
    ]


@pytest.mark.parametrize("how", ["mean", "sum", "none", "module", "inference", "one by one"])
def test_every_reduction_gives_the_same_mean(how: str) -> None:
    net, (x, y) = model(), (torch.randn(6, 4), torch.tensor([0, 1, 1, 0, -100, 1]))
    module = nn.CrossEntropyLoss()
    right = round(F.cross_entropy(net(x), y).item(), 5)

    def loop() -> None:
        mode = torch.inference_mode() if how == "inference" else torch.no_grad()
        with mode:
            output = net(x)
            if how == "module":
                module(output, y)  # which calls the function: counted once
            elif how == "one by one":
                for i in (0, 1, 2, 3, 5):
                    F.cross_entropy(output[i], y[i], reduction="sum")
            elif how == "none":
                F.cross_entropy(output[y >= 0], y[y >= 0], reduction="none")
            else:
                F.cross_entropy(output, y, reduction="sum" if how == "sum" else "mean")

    assert heard(loop) == ["start 0", ("val/loss", right, 0), "finish 0"]


@pytest.mark.parametrize("kind", ["attribute", "dict", "tuple", "kept inside"])
def test_the_loss_a_model_returns_counts_once_and_one_it_keeps_does_not(kind: str) -> None:
    class Output:
        def __init__(self, loss: Tensor) -> None:
            self.loss = loss

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model()

        def forward(self, x: Tensor, y: Tensor) -> Any:
            out = self.inner(x)
            loss = F.mse_loss(out, y)
            return {"attribute": Output(loss), "dict": {"loss": loss}, "tuple": (out, loss), "kept inside": out}[kind]

    net, (x, y) = Own(), (torch.randn(6, 4), torch.randn(6, 2))
    right = round(F.mse_loss(net.inner(x), y).item(), 5)

    def loop() -> None:
        with torch.no_grad():
            net(x, y)

    expected = [] if kind == "kept inside" else [("val/loss", right, 0)]
    assert heard(loop) == ["start 0", *expected, "finish 0"]


def test_a_second_loader_and_a_second_kind_of_loss_have_names_of_their_own() -> None:
    net, val, test = model(), data(4), data(8)

    def loop() -> None:
        with torch.no_grad():
            for loader in (val, test):
                for x, y in loader:
                    out = net(x)
                    F.mse_loss(out, y)
                    F.l1_loss(out, y)

    assert [each[0] for each in heard(loop)[1:-1]] == ["val/loss", "val/l1_loss", "val2/loss", "val2/l1_loss"]


def test_a_teacher_in_the_training_step_is_no_evaluation() -> None:
    net, teacher, train, val = model(), model(), data(), data()
    optimizer = adamw(net)

    def loop() -> None:
        for _ in range(2):
            for x, _y in train:
                optimizer.zero_grad()
                with torch.no_grad():
                    wanted = teacher(x)
                    F.mse_loss(wanted, _y)
                loss_of(net(x), wanted).backward()
                optimizer.step()
            with torch.no_grad():
                for x, y in val:
                    F.mse_loss(net(x), y)

    seen = heard(loop)
    assert seen[:2] == ["start 0", "finish 0"]  # before any backward nobody knows which loader trains
    later = [each for each in seen[2:] if not isinstance(each, tuple)]
    assert later == ["start 3", "finish 3", "start 6", "finish 6"]
    assert [each[2] for each in seen if isinstance(each, tuple)] == [3, 6]


def test_what_the_script_logs_itself_is_not_logged_again() -> None:
    net, val = model(), data()

    def loop() -> None:
        with torch.no_grad():
            for x, y in val:
                F.mse_loss(net(x), y)
        loopkit.log("val/loss", 7.0)

    assert heard(loop) == ["start 0", ("val/loss", 7.0, 0), "finish 0"]


def test_training_losses_are_not_logged_and_functions_are_only_wrapped_meanwhile() -> None:
    net, (x, y) = model(), (torch.randn(6, 4), torch.randn(6, 2))
    own = torch._C._nn.mse_loss
    with loopkit.watch(plugins=[Heard()], autoload=False):
        loss = F.mse_loss(net(x), y)
        assert torch._C._nn.mse_loss is own
        loss.backward()
        with torch.no_grad():
            net(x)
        assert torch._C._nn.mse_loss is not own
        net(x)
        assert torch._C._nn.mse_loss is own
        with torch.no_grad():
            net(x)
        loss_of(x.requires_grad_(), x).backward()  # no forward was heard: the backward says it
        assert torch._C._nn.mse_loss is own


def test_where_a_loop_tells_nothing_is_inferred() -> None:
    plugin, net = Heard(), model()
    with loopkit.watch(plugins=[plugin], autoload=False) as run:
        run.loop = object()
        with torch.no_grad():
            F.mse_loss(net(torch.ones(2, 4)), torch.ones(2, 2))
    assert plugin.seen == []


def test_compiled_and_scripted_losses_work_while_evaluating() -> None:
    import torch._dynamo

    torch._dynamo.reset()
    net, (x, y) = model(), (torch.randn(6, 4), torch.randn(6, 2))

    def both(x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(x, y) + 1.0

    right = both(x[:, :2], y)
    with loopkit.watch(plugins=[Heard()], autoload=False) as run, torch.no_grad():
        net(x)
        assert run.recorder.evaluating
        assert torch.equal(torch.compile(both, backend="eager", fullgraph=True)(x[:, :2], y), right)
        assert torch.equal(torch.jit.script(both)(x[:, :2], y), right)
        traced = torch.jit.trace(both, (x[:, :2], y))
    assert "double" not in str(traced.graph)
    assert torch.equal(torch.compile(both, backend="eager", fullgraph=True)(x[:, :2], y), right)
    assert torch.equal(torch.jit.script(both)(x[:, :2], y), right)


def test_hf_trainer(tmp_path: Path) -> None:
    from transformers import Trainer

    from tests.frameworks.trainers import Net, Rows, hf_arguments

    arguments = hf_arguments(str(tmp_path), steps=16)
    arguments.eval_strategy, arguments.num_train_epochs = "epoch", 2
    trainer = Trainer(model=Net(), args=arguments, train_dataset=Rows(), eval_dataset=Rows())
    seen = heard(trainer.train)
    told = [(each["eval_loss"], each["step"]) for each in trainer.state.log_history if "eval_loss" in each]
    assert [each for each in seen if isinstance(each, str)] == ["start 8", "finish 8", "start 16", "finish 16"]
    metrics = [each for each in seen if isinstance(each, tuple)]
    assert [(name, step) for name, _, step in metrics] == [("val/loss", 8), ("val/loss", 16)]
    assert [value for _, value, _ in metrics] == pytest.approx([loss for loss, _ in told], abs=1e-4)


def test_a_loader_that_begins_to_train_under_a_teacher_is_known_after_two_batches() -> None:
    net, teacher, first, second = model(), model(), data(), data(40)
    optimizer = adamw(net)

    def loop() -> None:
        epoch(net, optimizer, first)
        for x, _y in second:
            with torch.no_grad():
                wanted = teacher(x)
            optimizer.zero_grad()
            loss_of(net(x), wanted).backward()
            optimizer.step()

    assert heard(loop) == ["start 3", "finish 3", "start 4", "finish 4"]
