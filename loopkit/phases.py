"""Which part of a training loop this is: training or evaluating, and which loader the batches come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loopkit.feeds import Feeds
from loopkit.ledger import Ledger
from loopkit.record import Record
from loopkit.replicas import Replicas
from loopkit.signature import BACKWARD, BATCH, EVALUATION, FORWARD, STEP
from loopkit.sources import Sources

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

    from loopkit.history import RawEvent
    from loopkit.models import Models
    from loopkit.signature import Signature
    from loopkit.update import Update

BATCH_EVENT: RawEvent = (BATCH, None, None)
_EVALUATION: RawEvent = (EVALUATION, None, None)


class Phases(Record):
    """A record that knows of evaluations and passes over loaders.

    Attributes:
        sources: which loaders train.
        feeds: passes over DataLoaders.
        tracks: whether `source` is kept: where loaders may have to end, or evaluations are inferred.
        source: `id` of the iterator that handed out the last batch.
        batches: handed out so far.
        learned: passes over loaders that were trained on.
        evaluations: forwards without gradients so far.
        evaluating: an evaluation has begun and training has not gone on.
        listening: `Modes` looks at the forward that runs, and is to be told when it ends.
        on_evaluation: called at each forward without gradients, with whether it begins an evaluation.
        on_output: called when a forward without gradients returned, with its arguments and output.
        on_training: called when an evaluation is over.
        on_end: called with a DataLoader's iterator that had no batch.
        on_batch: called with each batch, in updates whose graphs are walked.
        on_forward: called with each outermost module and its arguments, with gradients on, in those updates.
        replicas: what is known of DDP wrappers.
    """

    def __init__(self, ledger: Ledger, models: Models, deliver: Callable[[Update, Signature], None]) -> None:
        super().__init__(ledger, models, deliver)
        self.ledger = ledger
        self.replicas = Replicas()
        self.sources = Sources()
        self.feeds = Feeds()
        self.tracks = False
        self.source = 0
        self.batches = 0
        self.learned = 0
        self.evaluations = 0
        self.evaluating = False
        self.listening = False
        self.on_evaluation: Callable[[bool], None] | None = None
        self.on_training: Callable[[], None] | None = None
        self.on_output: Callable[[tuple[Any, ...], dict[str, Any], Any], None] | None = None
        self.on_end: Callable[[Any], None] | None = None
        self.on_batch: Callable[[Any], None] | None = None
        self.on_forward: Callable[[Any, tuple[Any, ...], dict[str, Any]], None] | None = None
        self._began_at = 0  # batches that had arrived when the evaluation began
        self._suspected = 0  # the number of a pass whose batches may be trained on after all
        self._trained = 0  # the source of the last batch that a backward followed
        self._shown = 0  # of the last one that a forward without gradients followed

    def pass_began(self, iterator: object, loader: Any, line: tuple[Any, ...] = ()) -> None:
        """An iterator over a loader was made; `Sources.began` says what is asked for."""
        if self.evaluating and self.sources.trains_on(loader, line):
            self.training_goes_on()
        self.sources.began(iterator, loader, line)

    def forward_without_gradients(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        """The outermost module was called with gradients off."""
        if self.on_evaluation is not None:
            self.on_evaluation(self._begins_evaluation())
        modes = self.losses.modes
        self.listening = modes.ears is not None and modes.began(module, args)

    def look_ended(self) -> None:
        """The forward that `Modes` looks at returned, or raised."""
        self.listening = False
        self.losses.modes.ended()

    def training_goes_on(self) -> None:
        """There was an evaluation, and it is over."""
        if not self._was_training_step():
            self.source = 0  # its last batch was not trained on
        if self.on_training is not None:
            self.on_training()

    def _entered(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The outermost module is called with gradients on, in an update whose graphs are walked."""
        self.losses.forward_began(module, args, kwargs)
        if self.on_forward is not None:
            self.on_forward(module, args, kwargs)

    def _was_training_step(self) -> bool:
        """Whether what seemed an evaluation was a teacher's forward on a batch that is now trained on.

        So it is taken before the first backward, when no loader is known to train, and where one pass shows it twice.
        """
        if self._began_at != self.batches or not self.source:
            return False
        number = self.sources.number_from(self.source)
        again, self._suspected = number == self._suspected, number
        return again or not self.ledger.last_batch()

    def steps_of(self, optimizer: Optimizer) -> int:
        """Steps this optimizer has executed in this run."""
        return self.ledger.owner(optimizer).steps

    def finish(self) -> None:
        """The run ends, and with it an evaluation."""
        super().finish()
        if self.evaluating:
            self.training_goes_on()

    def _learn(self) -> None:
        """A backward came after a batch of another iterator than the last one did."""
        self._trained = self.source
        self.learned += 1
        self.sources.learn(self.source)
        self.feeds.trained(self.source)

    def _evaluated(self) -> None:
        """A forward without gradients: a whole evaluation is one event, whatever its length."""
        if self.source != self._shown:
            self._shown = self.source
            self.feeds.evaluated(self.source)
        events = self._events
        if events and events[-1] is BATCH_EVENT:
            events.pop()
        if not events or events[-1] is not _EVALUATION:
            events.append(_EVALUATION)

    def no_batch(self, args: tuple[Any, ...], error: BaseException) -> None:
        """An iterator was asked for a batch and had none, or failed."""
        if self.on_end is not None and isinstance(error, StopIteration):
            self.on_end(args[0])

    def _begins_evaluation(self) -> bool:
        """Whether a forward without gradients begins an evaluation.

        What comes between a training batch and its backward belongs to the training step: the teacher of a
        distillation, the target network of an agent.
        """
        if self.evaluating:
            return False
        self._began_at = self.batches
        last = next((code & 15 for code, _, _ in reversed(self._events) if code & 15 in _TRAINING), None)
        unused = self.batches > self.ledger.last_batch()
        return last != FORWARD and not (unused and self.source and self.sources.trains_from(self.source))


_TRAINING = (FORWARD, BACKWARD, STEP)
