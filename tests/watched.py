"""Running a loop under a watch, in one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import loopkit
from loopkit import Finding, Update, hookimpl


def find(loop: Callable[[], Any], **options: Any) -> list[Finding]:
    """The findings of a loop, with everything installed but the console."""
    with loopkit.watch(skip=["console"], **options) as run:
        loop()
    assert not run.failures
    return run.findings


def rules(loop: Callable[[], Any], **options: Any) -> list[str]:
    """The rules a loop breaks."""
    return [finding.rule for finding in find(loop, **options)]


def line_of(function: Callable[..., Any], text: str) -> int:
    """The number of the one line of a function that contains `text`."""
    lines, start = inspect.getsourcelines(function)
    at = [start + i for i, line in enumerate(lines) if text in line]
    assert len(at) == 1, f"{text!r} stands in {len(at)} lines"
    return at[0]


class Events:
    """Writes down the events of a run, in the letters of the table of observed orders."""

    LETTERS = {
        "batch_loaded": "D",
        "before_zero_grad": "z",
        "before_forward": "f",
        "before_backward": "b",
        "gradients_clipped": "c",
        "before_step": "s<",
        "after_step": "s>",
        "scheduler_stepped": "L",
        "step_skipped": "-",
    }

    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def batch_loaded(self) -> None:
        self.seen.append("D")

    @hookimpl
    def before_zero_grad(self, owner: Any) -> None:
        import torch

        self.seen.append("z" if isinstance(owner, torch.optim.Optimizer) else "zM")

    @hookimpl
    def before_forward(self) -> None:
        self.seen.append("f")

    @hookimpl
    def before_backward(self) -> None:
        self.seen.append("b")

    @hookimpl
    def gradients_clipped(self) -> None:
        self.seen.append("c")

    @hookimpl
    def before_step(self) -> None:
        self.seen.append("s<")

    @hookimpl
    def after_step(self) -> None:
        self.seen.append("s>")

    @hookimpl
    def scheduler_stepped(self) -> None:
        self.seen.append("L")

    @hookimpl
    def step_skipped(self) -> None:
        self.seen.append("-")


def events(loop: Callable[[], Any]) -> str:
    """The order of events in a loop: `D z f b s< s> L`."""
    heard = Events()
    with loopkit.watch(plugins=[heard], autoload=False):
        loop()
    return " ".join(heard.seen)


@dataclass
class Updates:
    """Keeps the updates that checks would see."""

    seen: list[Update]

    def __init__(self) -> None:
        self.seen = []

    @hookimpl
    def update_finished(self, update: Update) -> None:
        self.seen.append(update)
