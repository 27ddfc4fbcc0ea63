"""The order of events inside each framework, as its real code makes them; and that correct loops are silent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.frameworks import trainers
from tests.loops import loss_of, model, textbook
from tests.watched import events, rules


def test_textbook() -> None:
    assert events(lambda: textbook(2)) == "D z f b c s< s> L D z f b c s< s> L"


def test_lbfgs() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=1, max_eval=2)
        x = torch.randn(4, 4)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(net(x), x[:, :2])
            loss.backward()
            return loss

        optimizer.step(closure)

    assert events(loop) == "s< z f b s>"


def test_grad_scaler_overflow() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        x = torch.randn(4, 4)
        optimizer.zero_grad()
        scaler.scale(loss_of(net(x), x[:, :2]) * 1e6).backward()
        scaler.step(optimizer)
        scaler.update()

    assert events(loop) == "z f b -"


@pytest.mark.parametrize(
    ("accumulate", "order"),
    [
        (1, "zM D D f b c s< s> L zM D f b c s< s> L zM D f b c s< s> L zM f b c s< s> L zM"),
        (2, "zM D D D f b f b c s< s> L zM D D f b f b c s< s> L zM D D f b f b c s< s> L zM D f b f b c s< s> L zM"),
    ],
)
def test_hf_trainer(tmp_path: Path, accumulate: int, order: str) -> None:
    seen = events(lambda: trainers.hf(str(tmp_path), accumulate))
    # Which batch is read ahead when depends on the version; that the rest follows this order does not.
    assert [word for word in seen.split() if word != "D"] == [word for word in order.split() if word != "D"]
    assert seen.count("D") >= 4 * accumulate


@pytest.mark.parametrize(
    ("accumulate", "order"),
    [
        (1, "D D f b c s< s> L z D f b c s< s> L z D f b c s< s> L z f b c s< s> L z"),
        (2, "D D f b D f b c s< s> L z D f b f b c s< s> L z"),
    ],
)
def test_accelerate(accumulate: int, order: str) -> None:
    assert events(lambda: trainers.accelerate(accumulate)) == order


@pytest.mark.parametrize(
    ("accumulate", "order"),
    [
        (1, "zM " + " ".join(["D s< f z b c s> L"] * 4)),
        (2, "zM " + " ".join(["D f z b D s< f b c s> L"] * 2)),
    ],
)
def test_lightning_automatic(accumulate: int, order: str) -> None:
    seen = events(lambda: trainers.lightning(trainers.lightning_module(manual=False), accumulate))
    assert [word for word in seen.split() if word != "D"] == [word for word in order.split() if word != "D"]
    assert seen.count("D") == 4


def test_lightning_manual() -> None:
    seen = events(lambda: trainers.lightning(trainers.lightning_module(manual=True)))
    assert [word for word in seen.split() if word != "D"] == ["zM", *["f", "z", "b", "s<", "s>", "L"] * 4]


def test_ignite() -> None:
    assert events(trainers.ignite) == " ".join(["D z f b s< s>"] * 4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_correct_loops_are_silent(tmp_path: Path, accumulate: int) -> None:
    assert rules(lambda: trainers.hf(str(tmp_path), accumulate)) == []
    assert rules(lambda: trainers.accelerate(accumulate)) == []
    assert rules(lambda: trainers.lightning(trainers.lightning_module(manual=False), accumulate)) == []
    assert rules(lambda: trainers.lightning(trainers.lightning_module(manual=True))) == []
    assert rules(lambda: trainers.ignite(accumulate=accumulate)) == []
