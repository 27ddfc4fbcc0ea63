"""A forward without gradients → `evaluation_started`, `evaluation_finished`, and the loss of the evaluation.

An evaluation lasts from the first such forward until training goes on. Meanwhile the losses are heard that
`torch.nn.functional` makes (`losscalls.py`). A loss made inside a model counts if the model returns it; so does the
`.loss` of its output, however that was made. The mean is weighted by samples, summed on the device, and logged as
"val/loss"; that of a second loader as "val2/loss".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from loopkit.lossmean import Criterion, LossMeans, batch_size, mean_of
from loopkit.run import Run
from loopkit.taps.losscalls import LossCalls, is_plain
from loopkit.taps.patch import Handle, opaque

_NAME = "evaluations"


def install(run: Run) -> Handle:
    """Listen for evaluations."""
    return _Evaluations(run)


class _Evaluations:
    """The current evaluation, if there is one, and what its losses were so far."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._calls = run.instrument(LossCalls)
        self._means = LossMeans()
        self._inside = False  # a model is being called
        self._made: list[tuple[torch.Tensor, str, torch.Tensor, int]] = []
        self._step = 0
        self._batches = (0, 0)  # that had arrived at its first forward, and at its last
        run.recorder.on_evaluation, run.recorder.on_training = self._forward_began, self._ended
        run.recorder.on_output = self._output

    def undo(self) -> None:
        """Forget all."""
        recorder = self._run.recorder
        recorder.on_evaluation = recorder.on_training = recorder.on_output = None
        recorder.evaluating = False
        self._calls.stop(_NAME)

    def _forward_began(self, begins: bool) -> None:
        recorder = self._run.recorder
        if begins and not self._run.has_loop:
            recorder.evaluating = True
            self._means = LossMeans()
            self._step = recorder.steps
            self._batches = (recorder.batches, recorder.batches)
            self._calls.start(self._run, _NAME, self.loss_made)
            self._run.emit("evaluation_started")
        self._batches = (self._batches[0], recorder.batches)
        self._inside = recorder.evaluating

    def _output(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The model returned: what it returns may be, or hold, its loss."""
        self._inside = False
        made, self._made = self._made, []
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(own, torch.Tensor) and own.numel() == 1 and is_plain(own):
            self._add("loss", own.detach().reshape(()), batch_size((*args, *kwargs.values())))
            return
        for result, kind, mean, samples in made:
            if any(member is result for member in _members(output)):
                self._add(kind, mean, samples)

    def loss_made(self, criterion: Criterion, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """One of the functions returned."""
        if torch.is_grad_enabled() or not is_plain(result):
            return
        mean, samples = mean_of(criterion, args, result)
        if self._inside:
            self._made.append((result, criterion.kind, mean, samples))
        else:
            self._add(criterion.kind, mean, samples)

    def _add(self, kind: str, mean: torch.Tensor, samples: int) -> None:
        recorder = self._run.recorder
        self._means.add(recorder.sources.key(recorder.source), kind, mean, samples)

    def _ended(self) -> None:
        """Training goes on, or the run ends."""
        run, recorder = self._run, self._run.recorder
        recorder.evaluating = self._inside = False
        self._made.clear()
        self._calls.stop(_NAME)
        first, last = self._batches
        # Before the first backward nobody knows which loader trains: a single forward on the batch that is trained
        # on next is that of a teacher.
        if recorder.backwards or not 0 < first == last == recorder.batches:
            for name, mean in self._means.told():
                if run.logged.get(name) != self._step:  # the script has logged it itself
                    run.log(name, mean, self._step)
        self._means = LossMeans()
        run.emit("evaluation_finished")


def _members(output: Any) -> Iterator[Any]:
    yield output
    if isinstance(output, (tuple, list)):
        yield from output
    elif isinstance(output, Mapping):
        yield from output.values()


for function in (_Evaluations.loss_made, _Evaluations._output, _Evaluations._forward_began, _Evaluations._ended):
    opaque(function, callees=True)
