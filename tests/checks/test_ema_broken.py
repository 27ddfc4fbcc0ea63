"""ema-broken: found where it is, silent on what looks like it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of

RULE = "ema-broken"


def train(
    net: nn.Module, after: Callable[[], object] = lambda: None, optimizer: torch.optim.Optimizer | None = None
) -> None:
    optimizer = optimizer or adamw(net)
    for x, y in batches(4):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        after()


def evaluate(net: nn.Module) -> None:
    net.eval()
    with torch.no_grad():
        for x, y in batches(2):
            loss_of(net(x), y)
    net.train()


def never(*, kept: bool = True) -> AveragedModel | None:
    net = model()
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = adamw(net)
    for _ in range(3):
        train(net, optimizer=optimizer)
        evaluate(ema)
    return ema if kept else None


SNAPSHOTS = {RULE: never}


@pytest.mark.parametrize("kept", [True, False])
def test_an_average_that_is_never_updated(kept: bool) -> None:
    (finding,) = find(functools.partial(never, kept=kept), select=[RULE])
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(evaluate, "net.eval()")
    assert finding.evidence == {"evaluations": 3, "steps": 12}


def updated() -> None:
    net = model()
    ema = AveragedModel(net)
    train(net, lambda: ema.update_parameters(net))
    evaluate(ema)


def late() -> None:
    net = model()
    swa = AveragedModel(net)
    for epoch in range(4):
        train(net)
        if epoch > 1:
            swa.update_parameters(net)
        evaluate(swa)


def after_training() -> None:
    net = model()
    swa = AveragedModel(net)
    train(net)
    swa.eval()
    swa.update_parameters(net)


def before_training() -> None:
    net = model()
    ema = AveragedModel(net).eval()
    train(net, lambda: ema.update_parameters(net))


def only_made() -> None:
    net = model()
    ema = AveragedModel(net)
    train(net)
    assert ema


def normalised() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    swa = AveragedModel(net)
    train(net)
    swa.update_parameters(net)
    update_bn(loader(), swa)
    evaluate(swa)


def frozen_target() -> None:
    net = model()
    target = copy.deepcopy(net)
    train(net)
    evaluate(target)


LOOK_ALIKES = [updated, late, after_training, before_training, only_made, normalised, frozen_target]


@pytest.mark.parametrize("loop", LOOK_ALIKES)
def test_look_alikes_are_left_alone(loop: Callable[[], object]) -> None:
    assert find(loop, select=[RULE]) == []
