"""A restored learning rate that a scheduler's constructor has overwritten."""

from __future__ import annotations

import ast
import linecache
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from loopkit import Confidence, Finding, Run, Severity, Site, Update, hookimpl

_FROM_SCRATCH = ("LambdaLR", "OneCycleLR", "CyclicLR", "CosineAnnealingWarmRestarts")
"""These compute each rate from the base rate; all others change the rate that is there."""
_SAME = 1e-6


class ResumedRateOverwritten:
    """The learning rate of a restored optimizer is that of a first update: the scheduler was made after the load.

    What it looks for
        An optimizer and its scheduler are both restored by `load_state_dict`, and when the last of them is, the
        optimizer's rate is the one that a scheduler's constructor sets, and not the rate that the restored scheduler
        stands at; and training goes on with it.

    Why that hurts
        Most schedulers multiply the rate that is there. One that begins again, at the base rate or at the first rate
        of a warm-up, stays too high or too low by the same factor to the end of the run.

    A loop that has it
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler = SequentialLR(optimizer, [warmup, cosine], milestones=[100])
        scheduler.load_state_dict(checkpoint["scheduler"])

    The repair
        Make the scheduler first, and load the optimizer's state after that, as torch's documentation says.

    Left alone
        An optimizer that is restored last; a rate that is written by hand before or after; an optimizer that is not
        restored at all, which `resume-state-inconsistent` tells of. Where each rate is computed from the base rate
        (`LambdaLR`, `OneCycleLR`), it is right again at the next advance: info.

    What it costs
        A look at the rates when a scheduler's state is loaded, and in the update after that.
    """

    rule = "resumed-rate-overwritten"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._restored: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._suspects: list[_Suspect] = []
        self._found: list[_Suspect] = []

    @hookimpl
    def state_loaded(self, run: Run, owner: Any, site: Site) -> None:
        """Compare the rate that is with the one that the schedule stands at."""
        if isinstance(owner, Optimizer):
            self._restored.add(owner)
            self._suspects = [each for each in self._suspects if each.optimizer() is not owner]
            return
        optimizer = getattr(owner, "optimizer", None)
        if not isinstance(owner, LRScheduler) or not isinstance(optimizer, Optimizer):
            return
        self._suspects = [each for each in self._suspects if each.optimizer() is not optimizer]
        stands, is_now = _first(getattr(owner, "_last_lr", None)), _rate(optimizer)
        if (
            stands is None
            or is_now is None
            or _is_near(stands, is_now)
            or not _is_initial(owner, optimizer, stands, is_now)
        ):
            return
        name = type(owner).__name__
        self._suspects.append(_Suspect(weakref.ref(optimizer), name, type(optimizer).__name__, stands, is_now, site))
        run.tell_next()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """The first update after it: nobody has put the rate right."""
        if not self._suspects or not any(True for _ in update.steps()):
            return
        suspects, self._suspects = self._suspects, []
        for each in suspects:
            optimizer = each.optimizer()
            rate = _rate(optimizer) if optimizer is not None and optimizer in self._restored else None
            if rate is not None and each.stayed(rate):
                self._found.append(each)

    @hookimpl
    def run_finished(self) -> Iterator[Finding]:
        """Tell of what training went on with."""
        for each in self._found:
            heals = each.scheduler in _FROM_SCRATCH
            yield Finding(
                rule=self.rule,
                severity=Severity.INFO if heals else self.severity,
                confidence=self.confidence,
                place=each.site.place,
                places={"load": each.site.place},
                subject=each.optimizer_name,
                seen=f"the restored {each.scheduler} stands at a learning rate of {each.stands:.3g}, and "
                f"{each.optimizer_name}, restored too, went on at {each.is_now:.3g}, the rate a new scheduler sets",
                why="the rate is right again only when the scheduler advances next"
                if heals
                else "the scheduler changes the rate that is there: it stays off by the same factor to the end",
                remedy="make the scheduler before optimizer.load_state_dict(...), which brings the rate back",
                evidence={
                    "scheduler": each.scheduler,
                    "optimizer": each.optimizer_name,
                    "stands_at": each.stands,
                    "rate": each.is_now,
                    "load_frames": [str(place) for place in each.site.chain],
                },
            )


@dataclass(frozen=True)
class _Suspect:
    """An optimizer at another rate than its restored scheduler."""

    optimizer: Callable[[], Optimizer | None]
    scheduler: str
    optimizer_name: str
    stands: float
    is_now: float
    site: Site

    def stayed(self, rate: float) -> bool:
        """Whether nobody has put it right since. Once the scheduler has advanced, only the script tells."""
        if _is_near(rate, self.is_now):
            return True
        return not _is_near(rate, self.stands) and not _writes_a_rate(self.site.place.file)


def _writes_a_rate(file: str) -> bool:
    """Whether the code of a file assigns to something under the key "lr", or cannot be read."""
    try:
        nodes = list(ast.walk(ast.parse("".join(linecache.getlines(file)))))
    except (SyntaxError, ValueError):
        return True
    return len(nodes) < 2 or any(map(_writes, nodes))


def _writes(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
        return any(keyword.arg == "lr" for keyword in node.keywords)
    if not isinstance(node, ast.Subscript) or not isinstance(node.ctx, ast.Store):
        return False
    return isinstance(node.slice, ast.Constant) and node.slice.value == "lr"


def _rate(optimizer: Optimizer) -> float | None:
    return _first([group.get("lr") for group in optimizer.param_groups])


def _first(rates: Any) -> float | None:
    """The first of some rates; None where it is a tensor, which is not read."""
    first = rates[0] if isinstance(rates, list | tuple) and rates else None
    return float(first) if isinstance(first, int | float) else None


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(abs(one), abs(other))


def _is_initial(scheduler: LRScheduler, optimizer: Optimizer, stands: float, rate: float) -> bool:
    """Whether a rate is what this scheduler's constructor sets: the base rate, or the first of a warm-up."""
    initial = optimizer.param_groups[0].get("initial_lr")
    if not isinstance(initial, int | float):
        return False
    members = [scheduler, *(getattr(scheduler, "_schedulers", None) or ())]
    factors = [float(each.start_factor) for each in members if hasattr(each, "start_factor")]
    return any(_is_near(rate, begin * factor) for factor in (1.0, *factors) for begin in (initial, stands))
