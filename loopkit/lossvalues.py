"""Small summaries of what a loss, a model and a batch are made of: a handful of numbers each, left on the device.

The numbers of a summary, by name:

| name | of | what |
|---|---|---|
| `loss` | a loss | its value; the mean where it has several |
| `low`, `high` | targets that count, or a tensor | their extremes |
| `counted`, `targets` | classes | how many count, and how many there are |
| `part` | numbers as targets | how many are not whole |
| `below_0`, `above_1`, `below_-1` | numbers as targets | how many lie there |
| `sums` | numbers as targets | by how much their rows differ from 1 in sum, at most |
| `in_low`, `in_high` | input | extremes |
| `in_sums`, `in_logs` | input | by how much its rows miss 1 in sum, and 0 in logsumexp, at most |
| `moves` | input | by how much the values of one output differ over the batch, at most |
| `off_0`, `off_1`, `off_2` | targets and tokens | targets that differ from the token 0, 1, 2 positions on |
| `fits_0`, `fits_1`, `fits_2` | targets and tokens | targets compared for that |
| `pads`, `padded_rows`, `full_rows` | tokens | filler at the ends of rows; rows with it, and without |
| `empty_rows` | tokens | rows of filler alone |
| `inside`, `last_low`, `last_high` | tokens | filler elsewhere; extremes of what comes just before the filler |
| `pads_counted`, `pad_low`, `pad_high` | targets | of those at these ends: how many count, and their extremes |
| `like_pad`, `dropped` | targets | elsewhere: how many equal `pad_low`, and how many are ignored |
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

Summary = dict[str, Tensor]

_SAMPLE = 1 << 18
"""Elements of an input that are looked at; of a larger one, its first rows."""
MOST = 1 << 22
"""Elements of a target, of tokens or of a batch beyond which they are not looked at."""
_TOP, _BOTTOM = 1 << 52, -(1 << 52)  # a double holds these exactly


def is_plain(value: object) -> TypeGuard[Tensor]:
    """A dense tensor whose values are its own: no fake, sharded or nested one, and none in a graph being captured.

    Inside `torch.func` transforms nothing is: a tensor of all samples passes for one of a sample there.
    """
    if type(value) not in (Tensor, nn.Parameter) or torch._C._are_functorch_transforms_active():
        return False
    assert isinstance(value, Tensor)
    if value.layout is not torch.strided or value.is_meta or value.is_quantized or value.is_complex():
        return False
    return value.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def stacked(summary: Summary) -> Tensor:
    """One vector of all its numbers."""
    values = list(summary.values())
    exact = torch.float32 if values[0].device.type == "mps" else torch.float64
    return torch.stack([each.detach().reshape(()).to(exact) for each in values])


def of_batch(value: Tensor) -> Summary:
    """What a tensor of a batch is like."""
    value = _wide(value)
    return {"low": value.min(), "high": value.max()}


def of_classes(target: Tensor, ignored: int) -> Summary:
    """What targets are like that are numbers of classes."""
    counts = target != ignored
    low, high = _span(target, counts)
    return {"counted": counts.sum(), "targets": counts.new_tensor(target.numel(), dtype=torch.long), "low": low} | {
        "high": high
    }


def of_numbers(target: Tensor, dims: tuple[int, ...]) -> Summary:
    """What targets are like that are numbers.

    Args:
        target: any tensor but classes.
        dims: those over which a row may sum to 1.
    """
    wide = _wide(target)
    found = {
        "low": wide.min(),
        "high": wide.max(),
        "part": (wide != wide.round()).sum(),
        "below_0": (wide < 0).sum(),
        "above_1": (wide > 1).sum(),
        "below_-1": (wide < -1).sum(),
    }
    if dims:
        found["sums"] = _least([(wide.sum(dim) - 1).abs().max() for dim in dims])
    return found


def of_input(value: Tensor, dims: tuple[int, ...]) -> Summary:
    """What the input of a loss is like, in its first rows."""
    sample = _wide(_first_rows(value))
    found = {"in_low": sample.min(), "in_high": sample.max()}
    if dims:
        found["in_sums"] = _least([(sample.sum(dim) - 1).abs().max() for dim in dims])
        found["in_logs"] = _least([sample.logsumexp(dim).abs().max() for dim in dims])
    rows = sample.reshape(len(sample), -1) if sample.dim() else sample.reshape(1, 1)
    found["moves"] = (rows.amax(0) - rows.amin(0)).max()
    return found


def of_tokens(ids: Tensor, filler: int) -> tuple[Summary, Tensor]:
    """Where rows of tokens end in filler, as numbers and as a mask."""
    is_filler = ids == filler
    ends = (~is_filler).flip(1).cumsum(1).flip(1) == 0
    padded = ends.any(1)
    found = {
        "pads": ends.sum(),
        "padded_rows": padded.sum(),
        "full_rows": (~padded).sum(),
        "empty_rows": ends.all(1).sum(),
        "inside": (is_filler & ~ends).sum(),
    }
    low, high = _span(ids[:, :-1], ends[:, 1:] & ~ends[:, :-1]) if ids.shape[1] > 1 else (ends.sum(), ends.sum())
    return found | {"last_low": low, "last_high": high}, ends


def of_targets_near(target: Tensor, ignored: int, ids: Tensor, filler: int | None) -> Summary:
    """How targets stand to tokens of the same number of rows; empty where they do not fit."""
    batch, length = ids.shape
    width, rest = divmod(target.numel(), batch)
    if rest or not length - 2 <= width <= length or target.device != ids.device:
        return {}
    targets = target.reshape(batch, width)
    counts = targets != ignored
    found: Summary = {}
    for ahead in range(3):
        wide = min(width, length - ahead)
        here, there = targets[:, :wide], ids[:, ahead : ahead + wide]
        found[f"off_{ahead}"] = (counts[:, :wide] & (here != there)).sum()
        found[f"fits_{ahead}"] = counts[:, :wide].sum()
    if filler is None or width != length:
        return found
    numbers, ends = of_tokens(ids, filler)
    at_ends = counts & ends
    low, high = _span(targets, at_ends)
    return (
        found
        | numbers
        | {
            "pads_counted": at_ends.sum(),
            "pad_low": low,
            "pad_high": high,
            "like_pad": (~ends & (targets == low)).sum(),
            "dropped": (~ends & ~counts).sum(),
        }
    )


def _span(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    values = values.long()
    return torch.where(where, values, _TOP).min(), torch.where(where, values, _BOTTOM).max()


def _least(values: list[Tensor]) -> Tensor:
    return torch.stack(values).min()


def _wide(value: Tensor) -> Tensor:
    """In single precision at least: half precision has no sums to speak of, and integers no logarithms."""
    value = value.detach()
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _first_rows(value: Tensor) -> Tensor:
    value = value.detach()
    if value.numel() <= _SAMPLE or not value.dim():
        return value
    return value[: max(2, _SAMPLE * len(value) // value.numel())]
