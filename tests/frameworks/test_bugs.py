"""The four bugs, planted in each framework: named at the right line by the second update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.frameworks import trainers
from tests.loops import loss_of, model
from tests.watched import find, line_of

BUGS = ["missing-zero-grad", "zero-grad-before-step", "step-without-fresh-grad", "scheduler-before-optimizer"]


def _judge(loop: Callable[[], Any], bug: str, line: int) -> None:
    (finding,) = find(loop)
    assert finding.rule == bug
    assert finding.place is not None
    assert finding.place.line == line
    assert finding.step is not None
    assert finding.step <= 2


pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")


def raw(bug: str) -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    for _ in range(4):
        x = torch.randn(4, 4)
        if bug == "scheduler-before-optimizer":
            scheduler.step()
        if bug not in ("missing-zero-grad", "zero-grad-before-step"):
            optimizer.zero_grad()
        loss = loss_of(net(x), x[:, :2])
        if bug == "step-without-fresh-grad":
            optimizer.step()  # too early
        loss.backward()
        if bug == "zero-grad-before-step":
            optimizer.zero_grad()  # too late
        if bug != "step-without-fresh-grad":
            optimizer.step()
        if bug != "scheduler-before-optimizer":
            scheduler.step()


@pytest.mark.parametrize(
    ("bug", "text"), list(zip(BUGS, ["loss.backward()", "# too late", "# too early", None], strict=True))
)
def test_raw(bug: str, text: str | None) -> None:
    line = line_of(raw, text) if text else line_of(raw, 'if bug == "scheduler-before-optimizer"') + 1
    _judge(lambda: raw(bug), bug, line)


@pytest.mark.parametrize(
    ("bug", "text"),
    list(
        zip(
            BUGS,
            ["accelerator.backward(loss_of", "zero_grad()  # too early", "step()  # too early", None],
            strict=True,
        )
    ),
)
def test_accelerate(bug: str, text: str | None) -> None:
    line = line_of(trainers.accelerate, text or "scheduler.scheduler.step()")
    _judge(lambda: trainers.accelerate(bug=bug), bug, line)


@pytest.mark.parametrize(
    ("bug", "text"), list(zip(BUGS, ["manual_backward(loss)", "# too late", "# too early", None], strict=True))
)
def test_lightning_manual(bug: str, text: str | None) -> None:
    source = trainers.lightning_module
    if bug == "missing-zero-grad":
        line = line_of(source, "optimizer.zero_grad()  # too late") - 2
    else:
        line = line_of(source, text) if text else line_of(source, 'if bug == "scheduler-before-optimizer"') + 1
    _judge(lambda: trainers.lightning(trainers.lightning_module(manual=True, bug=bug)), bug, line)


@pytest.mark.parametrize(("bug", "text"), list(zip(BUGS, [None, "# too late", "# too early", None], strict=True)))
def test_ignite(bug: str, text: str | None) -> None:
    source = trainers.ignite
    if bug == "missing-zero-grad":
        line = line_of(source, "# too late") - 2
    else:
        line = line_of(source, text) if text else line_of(source, 'if bug == "scheduler-before-optimizer"') + 1
    _judge(lambda: trainers.ignite(bug), bug, line)


def hf_with(bug: str) -> Any:
    """A subclass of Trainer that has the bug, as users write them."""
    from transformers import Trainer

    class Mine(Trainer):
        def training_step(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
            if bug == "scheduler-before-optimizer":
                self.lr_scheduler.step()  # user's
                return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[no-any-return]
            loss: Tensor = self.compute_loss(model, inputs)
            if bug == "step-without-fresh-grad":
                return loss.detach()
            self.accelerator.backward(loss)
            if bug == "zero-grad-before-step":
                model.zero_grad()  # user's
            return loss.detach()

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            optimizer = super().create_optimizer(*args, **kwargs)
            if bug == "missing-zero-grad":
                self.model.zero_grad = lambda *args, **kwargs: None
            return optimizer

    return Mine


@pytest.mark.parametrize(
    ("bug", "text"),
    list(
        zip(BUGS, ["self.accelerator.backward(loss)", "zero_grad()  # user's", None, "step()  # user's"], strict=True)
    ),
)
def test_hf_trainer(tmp_path: Path, bug: str, text: str | None) -> None:
    # Where no call of the user's is to blame, it is the user's call into the framework.
    line = line_of(hf_with, text) if text else line_of(trainers.hf, "trainer.train()")
    _judge(lambda: trainers.hf(str(tmp_path), trainer_class=hf_with(bug)), bug, line)
