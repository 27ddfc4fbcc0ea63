"""What a process knows of the replicas it trains: its `DistributedDataParallel` wrappers, and what it did with them.

All of it is local: whether a forward went through a wrapper, whether that wrapper was to synchronise the backward
after it (which it decides at forward), and what its reducer reduces. Nothing is sent to other ranks from here. Read
in updates whose graphs are walked, and right after the step: all ranks are at the same point then.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.nn.parallel import DistributedDataParallel

from loopkit.digests import Digests
from loopkit.shards import Shards
from loopkit.sums import Sums
from loopkit.wraps import Wrap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from loopkit.callsite import CallSites, Site
    from loopkit.finding import Place
    from loopkit.holdings import Owner
    from loopkit.update import StepReading, Update

_WRAPS = 64
_FORWARDS = 256
"""Forwards remembered of one update."""
_ALWAYS = 4
"""Steps at the start of a run that are sampled; later those numbered by a power of two."""
_Given = tuple[tuple[Any, ...], dict[str, Any]]
_FORWARD = 52  # for the cache of call sites


class _Forward(NamedTuple):
    module: Callable[[], nn.Module | None]
    armed: bool
    backwards: int
    site: Site | None


class Lapse(NamedTuple):
    """A step that used gradients which were not averaged over the ranks.

    Args:
        kind: "unsynced" (under `no_sync`), "bypassed" (the forward was not the wrapper's) or "uncovered".
        wrap: of the model the step changed.
        owner: number of the optimizer, which its reading bears too.
        step: executed steps of all optimizers, this one included.
        forwards: of this update that a backward followed, in order: whether each was to be synchronised.
        called: what was called instead of the wrapper; "" unless it was bypassed.
        place: of that call.
        parameters: the uncovered ones, as name and reason; () unless that is the lapse.
    """

    kind: str
    wrap: Wrap
    owner: int
    step: int
    forwards: tuple[bool, ...] = ()
    called: str = ""
    place: Place | None = None
    parameters: tuple[tuple[str, str], ...] = ()


class Replicas:
    """An instrument: `run.instrument(Replicas)`.

    Attributes:
        wraps: in the order they were made.
        lapses: of the last update that was looked at.
        sums: of the parameters, after some of the steps.
        shards: passes over loaders that give each rank a share.
        digests: of what the wrappers were given.
        batches_at: the line that began the last pass over a loader; None where there was none.
        fed_at: what that was when the first digest was taken: the loop that trains.
        error: why nothing is looked at any more, or None.
    """

    def __init__(self) -> None:
        self.wraps: list[Wrap] = []
        self.lapses: list[Lapse] = []
        self.sums = Sums()
        self.digests = Digests()
        self.batches_at: Site | None = None
        self.fed_at: Site | None = None
        self.error: Exception | None = None
        self.shards = Shards()
        self._sent = 0
        self._forwards: list[_Forward] = []
        self._at = (-1, 0)

    def made(self, ddp: DistributedDataParallel, site: Site | None) -> None:
        """A wrapper was constructed, or is called and was not known."""
        if len(self.wraps) < _WRAPS:
            self.wraps.append(Wrap(ddp, len(self.wraps), site))

    def sent(self, elements: int) -> None:
        """The program called a collective itself, with a tensor of so many elements."""
        self._sent = max(self._sent, elements)
        self.shards.calls += 1

    def by_hand(self, wrap: Wrap) -> bool:
        """Whether the program may have averaged this model's gradients or weights itself, at any time so far."""
        return 2 * self._sent >= wrap.largest

    def lapsed(self, kind: str, update: Update) -> Iterator[tuple[Lapse, StepReading]]:
        """The lapses of one kind in this update, each with the reading of its step, where that used gradients."""
        steps = {reading.number: reading for _, reading in update.steps() if reading.fresh or reading.mixed}
        for lapse in self.lapses:
            if lapse.kind == kind and lapse.owner in steps and 0 <= update.number - lapse.step < len(update.events):
                yield lapse, steps[lapse.owner]

    def loaded(self, module: nn.Module, site: Site) -> None:
        """A state was loaded into a module."""
        for wrap in self.wraps:
            if module is wrap.ddp() or wrap.holds(module) or wrap.lies_in(module):
                wrap.loads = [*wrap.loads[-7:], site]

    def forward_began(self, module: nn.Module, given: _Given, backwards: int, steps: int, sites: CallSites) -> None:
        """The outermost module is called with gradients on; `given` are its arguments."""
        if self.error is None and (self.wraps or _ddp_of(module) is not None):
            try:
                self._forward(module, backwards, steps, sites)
                wrap = next((wrap for wrap in self.wraps if wrap.ddp() is _eager(module)), None)
                if wrap is not None and wrap.synchronises:
                    self.digests.given(wrap.number, *given)
            except Exception as error:  # noqa: BLE001
                self._fail(error)

    def stepped(self, owner: Owner, backwards: int, steps: int) -> None:
        """An optimizer executed a step, the one after `steps` others; gradients are still what it used."""
        if self.lapses and self.lapses[0].step <= steps:
            self.lapses.clear()
        if self.error is None and self.wraps:
            try:
                self.lapses += self._look(owner, backwards, steps)
            except Exception as error:  # noqa: BLE001
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A wrapper of an unheard-of kind costs these checks, not the others."""
        self.error = error
        self.lapses.clear()
        if os.environ.get("LOOPKIT_RAISE"):
            raise error

    def _forward(self, module: nn.Module, backwards: int, steps: int, sites: CallSites) -> None:
        if steps != self._at[0]:
            self._forwards.clear()
            self.digests.forget()
            self._at = steps, backwards
        ddp = _ddp_of(module)
        if ddp is not None and all(wrap.ddp() is not ddp for wrap in self.wraps):
            self.made(ddp, None)
        if len(self._forwards) < _FORWARDS:
            past = ddp is None and any(wrap.holds(_eager(module)) for wrap in self.wraps)
            site = sites.here(_FORWARD) if past else None
            armed = ddp is not None and bool(ddp.require_backward_grad_sync)
            self._forwards.append(_Forward(weakref.ref(_eager(module)), armed, backwards, site))

    def _look(self, owner: Owner, backwards: int, steps: int) -> Iterator[Lapse]:
        wraps = [wrap for wrap in self.wraps if wrap.synchronises]
        owned = {id(each) for each in owner.parameters() if each.grad is not None} if wraps else ()
        for wrap in wraps:
            mine = [(name, each) for name, each in wrap.named() if id(each) in owned]
            if not mine:
                continue
            if steps < _ALWAYS or not steps & (steps + 1):
                self._sample(wrap, f"{owner.number}:{owner.steps + 1}")
            if steps == self._at[0] and backwards > self._at[1] and len(self._forwards) < _FORWARDS:
                yield from self._lapses(wrap, owner.number, backwards, steps + 1)
            lost = tuple((name, why) for name, each in mine if (why := _uncovered(each, wrap, wraps)))
            if lost:
                yield Lapse("uncovered", wrap, owner.number, steps + 1, parameters=lost)

    def _sample(self, wrap: Wrap, at: str) -> None:
        """Take numbers that can be compared: at steps that all ranks choose alike, whatever else they do."""
        self.sums.take(wrap, at)
        if not self.digests.taken:
            self.fed_at = self.batches_at
        self.digests.stepped(wrap.number, at)

    def _lapses(self, wrap: Wrap, owner: int, backwards: int, step: int) -> Iterator[Lapse]:
        """Whether the forwards that a backward followed went through the wrapper, and were to be synchronised."""
        heard = [(each.module(), each) for each in self._forwards if each.backwards < backwards]
        if any(module is None or wrap.lies_in(module) for module, _ in heard):
            return  # a wrapper that is called inside another module is not heard
        ours = [each for module, each in heard if module is wrap.ddp()]
        past = [(module, each) for module, each in heard if module is not None and wrap.holds(module)]
        if ours:
            last, armed = ours[-1], [each.backwards for each in ours if each.armed]
            if not last.armed and all(number < last.backwards for number in armed):
                yield Lapse("unsynced", wrap, owner, step, tuple(each.armed for each in ours))
        elif past:
            module, first = past[0]
            place = wrap.call_of(first.site) if first.site is not None else None
            yield Lapse("bypassed", wrap, owner, step, (False,) * len(past), type(module).__name__, place)


def _uncovered(parameter: Tensor, wrap: Wrap, wraps: list[Wrap]) -> str:
    """Why no wrapper's reducer reduces the gradient of a parameter; "" where one does."""
    why = wrap.uncovered(parameter)
    return "" if any(not other.uncovered(parameter) for other in wraps) else why


def _eager(module: nn.Module) -> nn.Module:
    """What a compiled module was made of."""
    made_of = getattr(module, "_orig_mod", None) if type(module).__name__ == "OptimizedModule" else None
    return module if made_of is None else made_of


def _ddp_of(module: nn.Module) -> DistributedDataParallel | None:
    eager = _eager(module)
    return eager if isinstance(eager, DistributedDataParallel) else None
