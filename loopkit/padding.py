"""Targets of a cross-entropy beside the attention mask of the forward that made it.

At the door of a model (the outermost call, in updates whose graphs are walked) its mask, its token ids and its labels
are copied: a few small integer tensors, gone when the update ends. When the loss is sent backward, the targets that
its node saved are laid beside them. Targets belong to a forward where all that count are its ids or its labels, in
place or one position on; nothing is said of others. All of it is counted on the device, and read when a check gets
to see it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from loopkit.lossreading import Padding
from loopkit.unseen import unseen

_MOST = 4
"""Forwards between two backwards that are remembered: a pair of a preference loss, and some."""
_ELEMENTS = 1 << 22
"""Positions of a larger batch are not copied."""
_SHORTEST = 3
"""Positions of a sequence below which targets may fit by accident."""
_DEEPEST = 16  # nodes between a loss and what made its logits
_TOP, _BOTTOM = (1 << 62), -(1 << 62)


class Door(NamedTuple):
    """What went into one forward: where tokens are real, their ids, and labels, all of one shape (batch, length)."""

    real: Tensor
    ids: Tensor | None
    labels: Tensor | None


class Doors:
    """Remembers what the last forwards were given, and compares targets with it."""

    def __init__(self) -> None:
        self._doors: list[Door] = []
        self._used = False

    def entered(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The outermost module was called with gradients on."""
        if self._used:
            self.forget()
        given = _given(module, args, kwargs)
        mask: object = given.get("attention_mask")
        if not _is_plain(mask) or mask.dim() != 2 or mask.shape[1] < _SHORTEST or mask.numel() > _ELEMENTS:
            return
        with unseen(), torch.no_grad():
            copies = [_copy(given.get(name), mask) for name in ("input_ids", "labels")]
            self._doors = [*self._doors[1 - _MOST :], Door(mask != 0, *copies)]

    def forget(self) -> None:
        """Keep nothing."""
        self._doors.clear()
        self._used = False

    def beside(self, loss: Any) -> Tensor | None:
        """The targets of a cross-entropy node beside each forward they may belong to: a row of counts each way."""
        if not self._doors:
            return None
        self._used = True
        target = loss._saved_target
        if loss._saved_weight is not None or not _is_plain(target) or _is_masked(loss):
            return None
        ignored = loss._saved_ignore_index
        ignored = ignored - (1 << 64) if ignored >= 1 << 63 else ignored  # torch shows it unsigned
        with unseen(), torch.no_grad():
            rows = [row for door in self._doors for row in _rows(target, ignored, door)]
            return torch.stack(rows) if rows else None


def told(rows: Tensor | None) -> Padding | None:
    """The counts of the way in which the targets belong to a forward; None where they belong to none.

    Of several ways the one that accuses least.
    """
    if rows is None:
        return None
    fits = [_Row(*values) for values in rows.tolist()]
    fits = [row for row in fits if not row.strange and row.counted > row.padded]
    if not fits:
        return None
    row = min(fits, key=lambda each: each.padded)
    ends = next((each for each in fits if each.rows), row)
    return Padding(
        counted=row.counted,
        padded=row.padded,
        token=row.low if row.low == row.high else None,
        filler=ends.filler_low if ends.filler_low == ends.filler_high else None,
        rows=ends.rows,
        dropped=ends.dropped,
        learned=ends.learned,
    )


class _Row(NamedTuple):
    """The numbers of `Padding`, and how many targets that count are not what stands there in the batch."""

    strange: int
    counted: int
    padded: int
    low: int
    high: int
    filler_low: int
    filler_high: int
    rows: int
    dropped: int
    learned: int


def _given(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
    """What a model was called with, by name: keywords, positions, or one dictionary."""
    if not args:
        return kwargs
    if isinstance(args[0], Mapping):
        return args[0]
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return kwargs
    return dict(zip(names, args, strict=False)) | kwargs


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """A dense tensor whose values are its own: no fake, sharded or nested one, and none in a graph being captured."""
    if type(value) is not Tensor or value.layout is not torch.strided or value.is_meta:
        return False
    return value.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def _copy(value: object, mask: Tensor) -> Tensor | None:
    if not _is_plain(value) or value.is_floating_point():
        return None
    return value.clone() if value.shape == mask.shape and value.device == mask.device else None


def _is_masked(loss: Any) -> bool:
    """Whether the logits were multiplied by, or chosen with, a tensor: what a target weighs may be hidden in it."""
    node = loss
    for _ in range(_DEEPEST):
        inputs = node.next_functions
        node = inputs[0][0] if inputs else None
        if node is None:
            return False
        name = node.name()
        if name.startswith(("MaskedFill", "Where")):
            return True
        if name.startswith(("MulBackward", "DivBackward")):
            other = getattr(node, "_saved_other", None)
            if isinstance(other, Tensor) and other.numel() > 1 and not other.requires_grad:
                return True
        elif name.startswith(("AddmmBackward", "MmBackward", "BmmBackward", "EmbeddingBackward", "NativeLayerNorm")):
            return False
    return False


def _rows(target: Tensor, ignored: int, door: Door) -> Iterator[Tensor]:
    """Counts for each way in which the targets may belong to this forward."""
    batch, length = door.real.shape
    width, rest = divmod(target.numel(), batch) if batch else (0, 1)
    if rest or width not in (length, length - 1) or target.device != door.real.device:
        return
    targets = target.reshape(batch, width)
    for reference in (door.ids, door.labels):
        if reference is not None:
            yield _row(targets, ignored, door, reference, ahead=True)
            if width == length:
                yield _row(targets, ignored, door, reference, ahead=False)


def _row(targets: Tensor, ignored: int, door: Door, reference: Tensor, *, ahead: bool) -> Tensor:
    """Counts where a target is the reference one position on (`ahead`), or in place.

    A target one position on stands on padding where both its own position and the one it is predicted from do: the
    first real token of a sequence that is padded on the left, and a first padding token that stands for the end of
    the sequence, are none. Holes between real tokens are no padding.
    """
    real = door.real
    left = real.cumsum(1)
    later = real.flip(1).cumsum(1).flip(1)
    padding = (left == 0) | (later == 0)
    counts = targets != ignored
    there, on_padding = reference, padding
    if ahead:
        # What the last position predicts is in no batch that ends there: it passes for a match.
        there = _ahead(reference, targets)
        on_padding = (padding & _ahead(padding, padding))[:, : targets.shape[1]]
    padded = counts & on_padding
    low, high = _span(targets, padded)
    filler_low, filler_high = _span(door.ids, padding) if door.ids is not None else (low, high)
    zero = low * 0
    rows, dropped, learned = zero, zero, zero
    if ahead and reference is door.ids:
        rows, dropped = _ends(reference, counts, real & (later == 1), filler_low)
        learned = (counts & (targets == filler_low)).sum()
    strange = (counts & (targets != there)).sum()
    numbers = (strange, counts.sum(), padded.sum(), low, high, filler_low, filler_high, rows, dropped, learned)
    return torch.stack(numbers)


def _ahead(values: Tensor, last: Tensor) -> Tensor:
    """Each position's next value, as wide as `last`, whose own last column stands where there is none."""
    onward = values[:, 1:]
    return onward if last.shape[1] == onward.shape[1] else torch.cat([onward, last[:, -1:].to(values.dtype)], 1)


def _span(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    values = values.long()
    return torch.where(where, values, _TOP).min(), torch.where(where, values, _BOTTOM).max()


def _ends(ids: Tensor, counts: Tensor, last: Tensor, filler: Tensor) -> tuple[Tensor, Tensor]:
    """Rows whose token before the last counts as a target; of those, how many end in a `filler` that does not."""
    length = ids.shape[1]
    before, at = counts[:, : length - 2], counts[:, 1 : length - 1]
    ends = last[:, 2:] & before
    return ends.sum(), (ends & ~at & (ids[:, 2:] == filler)).sum()
