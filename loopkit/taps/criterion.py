"""A forward without gradients → `evaluation_started`, `evaluation_finished`, and the loss of the evaluation.

An evaluation lasts from the first such forward until training goes on. Meanwhile, and only then, the inner functions
are wrapped that the losses of `torch.nn` and `torch.nn.functional` call: a training step meets no wrapper, a name
imported from there is heard too, and torch's warnings about shapes name the user's line as ever. A loss made inside
a model counts if the model returns it; so does the `.loss` of its output, however that was made. The mean is weighted
by samples, summed on the device, and logged as "val/loss"; that of a second loader as "val2/loss".
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from threading import get_ident
from typing import Any

import torch

from loopkit.lossmean import CRITERIA, Criterion, LossMeans, batch_size, mean_of
from loopkit.run import Run
from loopkit.taps.patch import Cell, Handle, listen, opaque

_is_compiling = torch.compiler.is_dynamo_compiling


def install(run: Run) -> Handle:
    """Listen for evaluations."""
    return _Evaluations(run)


class _Evaluations:
    """The current evaluation, if there is one, and what its losses were so far."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._cell = Cell(run)
        self._wrappers = [(each, _around(each, self._cell, self)) for each in CRITERIA]
        self._wrapped = False
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
        self._cell.run = None
        self._unwrap()

    def _forward_began(self, begins: bool) -> None:
        recorder = self._run.recorder
        if begins and not self._run.has_loop:
            recorder.evaluating = True
            self._means = LossMeans()
            self._step = recorder.steps
            self._batches = (recorder.batches, recorder.batches)
            self._wrap()
            self._run.emit("evaluation_started")
        self._batches = (self._batches[0], recorder.batches)
        self._inside = recorder.evaluating

    def _output(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The model returned: what it returns may be, or hold, its loss."""
        self._inside = False
        made, self._made = self._made, []
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(own, torch.Tensor) and own.numel() == 1 and _is_plain(own):
            self._add("loss", own.detach().reshape(()), batch_size((*args, *kwargs.values())))
            return
        for result, kind, mean, samples in made:
            if any(member is result for member in _members(output)):
                self._add(kind, mean, samples)

    def loss_made(self, criterion: Criterion, args: tuple[Any, ...], result: Any) -> None:
        """One of the functions returned."""
        if not _is_plain(result):
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
        self._unwrap()
        first, last = self._batches
        # Before the first backward nobody knows which loader trains: a single forward on the batch that is trained
        # on next is that of a teacher.
        if recorder.backwards or not 0 < first == last == recorder.batches:
            for name, mean in self._means.told():
                if run.logged.get(name) != self._step:  # the script has logged it itself
                    run.log(name, mean, self._step)
        self._means = LossMeans()
        run.emit("evaluation_finished")

    def _wrap(self) -> None:
        if self._wrapped:
            return
        self._wrapped = True
        _let_dynamo_look()
        for each, ours in self._wrappers:
            if vars(each.owner)[each.name] is ours.__wrapped__:
                setattr(each.owner, each.name, ours)
                _SCRIPT[id(ours)] = f"aten::{each.name}"

    def _unwrap(self) -> None:
        if not self._wrapped:
            return
        self._wrapped = False
        for each, ours in self._wrappers:
            _SCRIPT.pop(id(ours), None)
            if vars(each.owner)[each.name] is ours:
                setattr(each.owner, each.name, ours.__wrapped__)


_SCRIPT: dict[int, str] = getattr(torch.jit._builtins, "_builtin_table", None) or {}
"""By which TorchScript knows torch's own functions: scripted meanwhile, a wrapper is what it is put around."""


def _let_dynamo_look() -> None:
    """Dynamo keeps a table of torch's functions, made from their names when first needed: not while they are ours."""
    rules = sys.modules.get("torch._dynamo.trace_rules")
    look = getattr(rules, "get_torch_obj_rule_map", None)
    if look is not None:
        look()


def _around(criterion: Criterion, cell: Cell, evaluations: _Evaluations) -> Any:
    original = vars(criterion.owner)[criterion.name]

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if _is_compiling():
            return result
        run = cell.run
        if run is not None and not run.busy and run.thread == get_ident() and not torch.is_grad_enabled():
            listen(run, evaluations.loss_made, criterion, args, result)
        return result

    # By these marks Dynamo passes by the wrapper, and compiles what it is put around.
    wrapper.__dict__["__script_if_tracing_wrapper"] = True
    wrapper.__dict__["__original_fn"] = original
    return opaque(wrapper, callees=False)


def _is_plain(value: Any) -> bool:
    """Whether a loss is a tensor like any other, of which a copy may be computed unseen."""
    if type(value) is not torch.Tensor or not value.is_floating_point() or value.is_meta:
        return False
    if (
        torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
    ):
        return False
    if torch._C._functorch.maybe_current_level() is not None:
        return False
    return not (value.is_cuda and torch.cuda.is_current_stream_capturing())


def _members(output: Any) -> Iterator[Any]:
    yield output
    if isinstance(output, (tuple, list)):
        yield from output
    elif isinstance(output, Mapping):
        yield from output.values()


for function in (_Evaluations.loss_made, _Evaluations._output, _Evaluations._forward_began, _Evaluations._ended):
    opaque(function, callees=True)
