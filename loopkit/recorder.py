"""Turns what the taps hear into the record of the current update. The hot path appends small tuples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from loopkit.callsite import CallSites, Site
from loopkit.expected import BACKED, NOTHING, PENDING
from loopkit.history import RawEvent, in_words
from loopkit.inputs import Inputs
from loopkit.ledger import Ledger
from loopkit.loaders import Loaders
from loopkit.models import Models
from loopkit.pending import Waiting
from loopkit.phases import BATCH_EVENT
from loopkit.record import LONGEST
from loopkit.schedulers import Schedulers, is_being_built
from loopkit.signature import (
    BACKWARD,
    BATCH,
    EPOCH,
    FORWARD,
    SCHEDULER,
    Signature,
    bits_of,
)
from loopkit.stepping import Stepping
from loopkit.twins import Twins
from loopkit.update import Update

if TYPE_CHECKING:
    from loopkit.update import SchedulerReading

_CONSTRUCTION = -1  # for the cache of call sites; no event
_FORWARD: RawEvent = (FORWARD, None, None)


class Recorder(Stepping):
    """Writes the record of the current update.

    Args:
        deliver: called with each `Update` that checks should see, and its signature.
    """

    def __init__(
        self, sites: CallSites, ledger: Ledger, models: Models, deliver: Callable[[Update, Signature], None]
    ) -> None:
        super().__init__(sites, ledger, models, deliver)
        self.backwards = self.forwards = 0
        self.on_backward: Callable[[], None] | None = None  # called when no forward was heard, or while searching
        self.searching = False
        self._forwards_before = 0
        self._inputs = Inputs()
        self._loaders = Loaders()
        self.twins: Twins | None = None  # while the first batches of a pass are compared
        self.models = models
        self.scheduling = Schedulers(ledger)
        self.schedulers_open = 0  # whose `step` may call that of others
        self._waiting = Waiting(ledger)
        self._site: Site | None = None
        self.losses.modes.recorder = self

    def instruments(self) -> dict[type[Any], Any]:
        """Those it feeds, which checks may ask for."""
        return {type(each): each for each in (self.feeds, self.losses.levels, self.losses.draws)}

    # -- data and forward --------------------------------------------------------------------------------

    def epoch_began(self, loader: Any) -> None:
        """An iterator over a loader was made."""
        if self._stepped and not self._open.stack:
            self.close()
        self._trained = self._shown = 0  # the `id` of an iterator may come again
        _, number, length = self._loaders.known(loader)
        self.scheduling.epoch_began(number, length, loader)
        if len(self._events) < LONGEST:
            self._events.append((EPOCH | bits_of(number), None, (number, length)))

    def batch(self, args: tuple[Any, ...] = (), _: object = None, batch: Any = None) -> None:
        """A batch arrived.

        Args:
            args: first of them, the iterator it came from.
            batch: the batch.
        """
        expected = self.expected
        if expected.kind == BATCH and (not expected.closes or self._goes_on()):
            if self.tracks and args:
                self.source = id(args[0])
            self.batches += 1
            self.expected = expected.then
            return
        if expected is not NOTHING:
            self.wake()
        if self._stepped and not self._open.stack:
            self.close(BATCH)
        if self.tracks and args:
            if self.evaluating and self.sources.trains(args[0]):
                self.training_goes_on()
            self.source = id(args[0])
        self.batches += 1
        if self.on_batch is not None:
            self.on_batch(batch)
        if self.twins is not None and not self.twins.saw(args[0] if args else None, batch):
            self.twins = None
        if not self._events or self._events[-1] is not BATCH_EVENT:
            self._events.append(BATCH_EVENT)

    def forward_began(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """The outermost module was called. Returns whether its end is to be told of too."""
        expected = self.expected
        if expected.kind == FORWARD and torch.is_grad_enabled() and (not expected.closes or self._goes_on()):
            self.forwards += 1
            self._inputs.saw(args, kwargs)
            self.expected = expected.then
            return False
        if expected is not NOTHING:
            self.wake()
        if self._stepped and not self._open.stack:
            self.close(FORWARD)
        if self.losses.planned:
            self.models.met(module)
        if not torch.is_grad_enabled():
            self.evaluations += 1
            self.forward_without_gradients(module, args)
            self._evaluated()
            return self.evaluating or self.listening or self.searching
        if self.evaluating:
            self.training_goes_on()
        self.forwards += 1
        if self.losses.walking:
            self._entered(module, args, kwargs)
            self.replicas.forward_began(module, (args, kwargs), self.backwards, self.steps, self.sites)
            self.losses.levels.site = self.sites.here(FORWARD, brief=True)
        ledger = self.ledger
        ledger.now.tick = ledger.last_forward = ledger.now.tick + 1
        self._inputs.saw(args, kwargs)
        if not self._events or self._events[-1] is not _FORWARD:
            self._events.append(_FORWARD)
        return self.losses.walking or self.searching

    def forward_ended(self) -> None:
        """The outermost module returned; told of while searching, and in updates whose graphs are walked."""
        if self.losses.walking and torch.is_grad_enabled():
            self.losses.forward_ended(self.steps)

    # -- backward and gradients --------------------------------------------------------------------------

    def backward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Backward is about to add to gradients."""
        expected, losses = self.expected, self.losses
        if expected is not NOTHING:
            if expected.kind == BACKWARD and self.source == self._trained:
                site = self._site = self.sites.here(BACKWARD)
                if site is expected.site:
                    self.in_backward = 1
                    shape = losses.finite.sent(args, site, self.steps, self.batches, False)
                    if not shape:
                        self.expected = expected.then
                        return
                    self.wake()
                    losses.wanted = self._prelude_over = True
                    self._events.append((BACKWARD | site.bits | shape, site, None))
                    return
            self.wake()
        if self.evaluating and not self.in_backward:
            self.training_goes_on()
        self.in_backward += 1
        if self.in_backward > 1:  # a reentrant checkpoint runs a backward inside the backward
            return
        if self._stepped and not self._open.stack:
            self.close()
        site = self._site = self.sites.here(BACKWARD)
        ledger = self.ledger
        usual = ledger.usual
        if usual is None or not usual.blank or ledger.late is not None:  # otherwise there is nothing to look at
            ledger.backward_began(site)
        raw = losses.read(args, kwargs) if losses.wanted else None
        if losses.levels.due <= self.history.updates:
            losses.sample(args, kwargs, self.history.updates)
        losses.wanted = True  # a second backward of one update makes a window
        code = BACKWARD | site.bits | losses.finite.sent(args, site, self.steps, self.batches, losses.walking)
        if len(self._events) < LONGEST:
            self._events.append((code, site, raw))
        else:
            self._truncated = True
        self._prelude_over = True

    def backward_ended(self, *_: object) -> None:
        """Backward returned, or raised with some gradients already written."""
        self.in_backward -= 1
        expected = self.expected
        if expected.kind == BACKED:
            self._site = None
            self.backwards += 1
            self.ledger.late = PENDING
            self.expected = expected.then
            return
        site = self._site
        if self.in_backward or site is None:
            return
        self._site = None
        self.backwards += 1
        if self.source != self._trained:
            self._learn()
        self.ledger.backward_ended(site, self.batches, self._inputs.told())
        if not self.steps:
            self._waiting.backward_ended(site, self._inputs.derived)
        if self.on_backward is not None and (self.searching or self.forwards == self._forwards_before):
            self.on_backward()
        self._forwards_before = self.forwards

    # -- schedulers -------------------------------------------------------------------------------------

    def scheduler_ended(self, args: tuple[Any, ...], kwargs: dict[str, Any], *_: object) -> bool:
        """A scheduler's `step` returned. Returns whether it advanced: not in a constructor, nor inside another's.

        Args:
            args: first of them, the scheduler.
        """
        scheduler, expected = args[0], self.expected
        if expected is not NOTHING:
            plain = expected.kind == SCHEDULER and not kwargs and (len(args) == 1 or args[1] is None)
            if plain and self.sites.here(SCHEDULER, brief=True) is expected.site and self._goes_ahead(scheduler):
                self.expected = expected.then
                return True
            self.wake()
        if self.schedulers_open:
            return False
        # What `is_being_built` says, without a call of it at every advance.
        if getattr(scheduler, "_is_initial", True) and is_being_built(scheduler):
            self.scheduler_made(scheduler)
            return False
        explicit = len(args) > 1 and args[1] is not None
        if kwargs and not explicit:
            explicit = any(given is not None for given in kwargs.values())
        site = self.sites.here(SCHEDULER, brief=True)
        raw = self.scheduling.advanced(scheduler, site, explicit, self.backwards)
        code = SCHEDULER | raw[0].bits | (raw[2] == 0) << 12 | explicit << 13 | site.bits
        if self._prelude or not self._prelude_over:
            self._may_open(code, site)
        if len(self._events) < LONGEST:  # what `_note` does
            self._events.append((code, site, raw))
        return True

    def scheduler_made(self, scheduler: Any) -> None:
        """A scheduler was constructed."""
        self.scheduling.made(scheduler, self.sites.here(_CONSTRUCTION, brief=True), self.backwards)

    def schedules(self, *, unused: bool = False) -> list[SchedulerReading]:
        """The last advance of each scheduler; or those that never advanced."""
        return self.scheduling.unused(self.backwards) if unused else self.scheduling.lives(self.backwards)

    def open_update(self) -> Update | None:
        """What happened since the last executed step, if anything did."""
        if not self._events or self._stepped:
            return None
        pending = () if self.steps else self._waiting.told()
        return Update(self.steps, 0, self.history.updates, 0, in_words(self._events), self._truncated, pending)
