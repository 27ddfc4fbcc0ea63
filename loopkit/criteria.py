"""What losses are computed from: a few numbers of their inputs, targets, tokens and batches, in the walked updates.

All of it is computed on the device when the function is called and read in one transfer when a check gets to see it.
No tensor of the user's is kept, but for tokens, which are copied and gone when the update ends. A call counts once
its result was sent backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loopkit.criterionreading import BatchReading, CriterionReading, DoorReading, NearReading, Numbers, Seen
from loopkit.lossgiven import (
    IN_LOGARITHMS,
    OF_CLASSES,
    Key,
    Tokens,
    argument,
    attention_of,
    chain,
    class_dims,
    classes,
    given,
    in_place,
    is_shared,
    members,
    reduced_by,
    tokens,
)
from loopkit.lossvalues import (
    MOST,
    Summary,
    is_plain,
    of_batch,
    of_classes,
    of_input,
    of_numbers,
    of_targets_near,
    of_tokens,
    stacked,
)
from loopkit.modelshape import ModelShape, ModelShapes
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from loopkit.callsite import Site
    from loopkit.graphwalk import Walk
    from loopkit.lossmean import Criterion
    from loopkit.update import Update

_CALLS = 32
"""Calls kept between two tellings; of doors and tensors of batches as many."""
_REDUCTIONS = ("none", "mean", "sum")
_REDUCED = {"Mean": "mean", "Sum": "sum"}


@dataclass
class _Call:
    made: Key
    kind: str
    site: Site
    update: int
    reduction: str
    ignored: int | None
    weighted: bool
    smoothed: bool
    classes: int
    chain: list[Key]
    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    summary: Summary
    near: list[tuple[str, Summary]]
    shape_of: ModelShape | None
    tokens: list[Tokens]
    sent: bool = False
    waited: bool = False
    shared: bool = False


@dataclass
class _Door:
    model: str
    site: Site
    update: int
    unmasked: bool
    shape: tuple[int, ...]
    tensors: int
    summary: Summary
    of: ModelShape


@dataclass
class _Batch:
    name: str
    update: int
    shape: tuple[int, ...]
    summary: Summary


@dataclass
class _Pending:
    calls: list[_Call] = field(default_factory=list)
    doors: list[_Door] = field(default_factory=list)
    batches: list[_Batch] = field(default_factory=list)


class Criteria:
    """Reads calls of losses, models and batches while graphs are walked.

    Attributes:
        error: why nothing is read any more, or None.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._pending = _Pending()
        self._tokens: list[Tokens] = []
        self._shape: ModelShape | None = None
        self._shapes = ModelShapes()
        self._told = -1
        self._seen = Seen()

    # -- what is heard -----------------------------------------------------------------------------------

    def batch(self, batch: Any, update: int) -> None:
        """A batch arrived."""
        with unseen(), torch.no_grad():
            for name, value in members(batch):
                if len(self._pending.batches) < _CALLS and is_plain(value) and 0 < value.numel() <= MOST:
                    self._pending.batches.append(_Batch(name, update, tuple(value.shape), of_batch(value)))

    def forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], site: Site, update: int
    ) -> None:
        """The outermost module was called with gradients on; a criterion is a module too, but no model."""
        if next(module.parameters(), None) is None:
            return
        values = given(module, args, kwargs)
        shape = self._shape = self._shapes.of(module)
        with unseen(), torch.no_grad():
            self._tokens = list(tokens(values))
            first = next((each for each in values.values() if is_plain(each)), None)
            if first is None or not first.numel() or len(self._pending.doors) >= _CALLS:
                return
            summary: Summary = {}
            if first.is_floating_point():
                summary = of_input(first, ())
            elif self._tokens and shape.filler is not None:
                summary, _ = of_tokens(self._tokens[0].ids, shape.filler)
        tensors = sum(isinstance(each, Tensor) for each in values.values())
        unmasked = shape.takes_mask and shape.two_way and values.get("attention_mask") is None
        self._pending.doors.append(
            _Door(type(module).__name__, site, update, unmasked, tuple(first.shape), tensors, summary, shape)
        )

    def called(
        self,
        criterion: Criterion,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Tensor,
        site: Site,
        update: int,
    ) -> None:
        """A loss was made, with gradients on."""
        node = result.grad_fn
        value, target = args[0], args[1] if len(args) > 1 else None
        if node is None or not is_plain(value) or not is_plain(target) or len(self._pending.calls) >= _CALLS:
            return
        if not value.numel() or not target.numel():
            return
        has_classes = criterion.kind in OF_CLASSES and not target.is_floating_point()
        ignored = argument(args, criterion.ignore, -100) if has_classes else None
        dims = class_dims(criterion.kind, value)
        with unseen(), torch.no_grad():
            summary = {"loss": result.detach().float().mean()}
            summary |= of_input(value, dims if criterion.kind in IN_LOGARITHMS else ())
            near: list[tuple[str, Summary]] = []
            if target.numel() > MOST:
                pass
            elif ignored is not None:
                summary |= of_classes(target, ignored)
                near = list(self._near(target, ignored))
            else:
                summary |= of_numbers(target, dims if target.shape == value.shape else ())
        weights = args[2] if criterion.reduction > 2 and len(args) > 2 else None
        smoothing = args[5] if criterion.kind == "cross_entropy" and len(args) > 5 else 0
        self._pending.calls.append(
            _Call(
                made=(node.name(), node._sequence_nr()),
                kind=criterion.kind,
                site=site,
                update=update,
                reduction=_REDUCTIONS[argument(args, criterion.reduction, 1)],
                ignored=ignored,
                weighted=weights is not None or (argument(args, 3, None) is not None and "bce" in criterion.name),
                smoothed=bool(smoothing) or bool(kwargs.get("log_target")),
                classes=classes(criterion.kind, value),
                chain=chain(value.grad_fn),
                shape=tuple(value.shape),
                target_shape=tuple(target.shape),
                summary=summary,
                near=near,
                shape_of=self._shape if near else None,
                tokens=self._tokens if near else [],
            )
        )

    def _near(self, target: Tensor, ignored: int) -> Iterator[tuple[str, Summary]]:
        filler = self._shape.filler if self._shape is not None else None
        for name, ids in self._tokens:
            if numbers := of_targets_near(target, ignored, ids, filler):
                yield name, numbers

    def sent(self, walk: Walk, update: int, is_hooked: Callable[[Any], bool]) -> None:
        """A loss is sent backward, and its graph was walked.

        Args:
            walk: of its graph.
            update: of which update of the run.
            is_hooked: whether a node of the graph must not be asked for what it saved.
        """
        waiting = {call.made: call for call in self._pending.calls if not call.sent}
        made = [waiting.get((node.name(), node._sequence_nr())) for node in walk.nodes] if waiting else []
        sent = [call for call in made if call is not None]
        for call in sent:
            call.sent = True
            if call.kind in IN_LOGARITHMS and call.chain:
                call.shared = is_shared(set(call.chain), walk.nodes)
            if call.reduction == "none":
                users = reduced_by(call.made, walk.nodes)
                call.reduction = _REDUCED.get(users.pop(), "none") if len(users) == 1 else "none"
            for name, summary in call.near:
                with unseen(), torch.no_grad():
                    summary["in_place"] = in_place(walk.nodes, dict(call.tokens)[name], is_hooked)
            call.tokens = []
        doors = [each for each in self._pending.doors if each.update == update and "pads" in each.summary]
        near = [call for call in sent if call.near and call.shape_of is not None and not call.shape_of.causal]
        if near or doors:
            like = near[0].near[0][1]["fits_0"] if near else doors[0].summary["pads"]
            with unseen(), torch.no_grad():
                attention = attention_of(walk.nodes, like, is_hooked)
            for call in near:
                for _, summary in call.near:
                    summary["causal"] = attention.causal
            for door in doors:
                door.unmasked |= attention.unmasked and door.tensors == len(doors) == 1 and not door.of.takes_mask

    def forget(self) -> None:
        """The update is over, or graphs are walked no more: tokens of this one are of no use."""
        self._tokens = []
        self._shape = None

    # -- what is told ------------------------------------------------------------------------------------

    def of(self, update: Update | None) -> Seen:
        """What was read since another update was asked about, until this one, or the end of the run (None).

        Values are read here.
        """
        number = -2 if update is None else update.updates
        if number != self._told:
            self._told = number
            pending, self._pending = self._pending, _Pending()
            for call in pending.calls:
                if not call.sent and not call.waited:
                    call.waited = True  # it may belong to the update that has just begun
                    self._pending.calls.append(call)
            with unseen():
                self._seen = _read(pending)
        return self._seen


def _read(pending: _Pending) -> Seen:
    """All in one transfer from each device."""
    calls = [call for call in pending.calls if call.sent]
    summaries = [each.summary for each in calls] + [each.summary for each in pending.doors]
    summaries += [each.summary for each in pending.batches]
    summaries += [near for call in calls for _, near in call.near]
    numbers = _numbers([each for each in summaries if each])
    read = {id(summary): each for summary, each in numbers}
    return Seen(
        tuple([_call_told(each, read) for each in calls]),
        tuple([_door_told(each, read) for each in pending.doors]),
        tuple([BatchReading(each.name, each.update, each.shape, read[id(each.summary)]) for each in pending.batches]),
    )


def _numbers(summaries: list[Summary]) -> Iterator[tuple[Summary, Numbers]]:
    by_device: dict[torch.device, list[Summary]] = {}
    for each in summaries:
        by_device.setdefault(next(iter(each.values())).device, []).append(each)
    for several in by_device.values():
        values = torch.cat([stacked(each) for each in several]).tolist()
        at = 0
        for each in several:
            yield each, dict(zip(each, values[at : at + len(each)], strict=True))
            at += len(each)


def _call_told(call: _Call, read: Mapping[int, Numbers]) -> CriterionReading:
    shape = call.shape_of
    return CriterionReading(
        kind=call.kind,
        site=call.site,
        update=call.update,
        reduction=call.reduction,
        ignored=call.ignored,
        weighted=call.weighted,
        smoothed=call.smoothed,
        classes=call.classes,
        origin=call.chain[-1][0].partition("Backward")[0] if call.chain else "",
        shared=call.shared,
        shape=call.shape,
        target_shape=call.target_shape,
        numbers=read[id(call.summary)],
        near=tuple(
            NearReading(name, _is_causal(shape, read[id(numbers)]), shape.filler, read[id(numbers)])
            for name, numbers in call.near
            if shape is not None
        ),
    )


def _is_causal(shape: ModelShape, numbers: Numbers) -> bool:
    return not shape.two_way and (shape.causal or bool(numbers.get("causal")))


def _door_told(door: _Door, read: Mapping[int, Numbers]) -> DoorReading:
    return DoorReading(
        model=door.model,
        site=door.site,
        update=door.update,
        unmasked=door.unmasked,
        takes_mask=door.of.takes_mask,
        filler=door.of.filler,
        first=door.of.first,
        shape=door.shape,
        tensors=door.tensors,
        numbers=read.get(id(door.summary), {}),
    )
