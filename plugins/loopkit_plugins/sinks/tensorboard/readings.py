"""What is read of tensors: norms, counts and samples, each group of them in one transfer from the device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLE = 16_384
"""Values of one tensor that a histogram or an update ratio looks at; more are thinned out evenly."""
_HALF = (torch.float16, torch.bfloat16)


def values_of(tensor: Tensor | None) -> Tensor | None:
    """The plain real numbers in a parameter or gradient, detached; None where there are none to be read.

    Of a tensor that is spread over processes it is this one's part: asking the others would wait for them. Of a
    sparse one it is what is stored; of a complex one, real and imaginary parts.
    """
    if tensor is None:
        return None
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    readable = tensor.layout is torch.strided and tensor.is_floating_point() and tensor.device.type != "meta"
    return tensor if readable and tensor.numel() else None


def fetch(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors on the host, flat, as float32 or wider: one transfer for each device and width."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        groups.setdefault((tensor.device, wide), []).append(i)
    found: dict[int, Tensor] = {}
    for (_, dtype), members in groups.items():
        flat = torch.cat([tensors[i].detach().reshape(-1).to(dtype) for i in members]).cpu()
        parts = torch.split(flat, [tensors[i].numel() for i in members])
        found.update(zip(members, parts, strict=True))
    return [found[i] for i in range(len(tensors))]


def numbers(tensors: Sequence[Tensor]) -> list[float]:
    """The values of tensors of one element, in one transfer a device and width."""
    return [number for values in fetch(tensors) for number in values.tolist()]


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each tensor, 0-dim, on its device; those of half precision in single. Nothing is read."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(i)
    found: dict[int, Tensor] = {}
    for (_, dtype), members in groups.items():
        wide = torch.float32 if dtype in _HALF else None
        results = torch._foreach_norm([tensors[i] for i in members], 2, dtype=wide)
        found.update(zip(members, results, strict=True))
    return [found[i] for i in range(len(tensors))]


def nonfinite(tensors: Sequence[Tensor]) -> int:
    """How many values of these tensors are NaN or infinite. One transfer a device."""
    if not tensors:
        return 0
    return int(sum(numbers([(~torch.isfinite(tensor)).sum() for tensor in tensors])))


def sample(tensor: Tensor) -> Tensor:
    """A copy of at most `SAMPLE` values, spread evenly, as float32 or wider, on the tensor's device.

    The stride has no divisor in common with the rows' length: a sample of a few columns would not be one.
    """
    flat = tensor.reshape(-1)
    stride = -(-flat.numel() // SAMPLE)
    while stride > 1 and math.gcd(stride, tensor.shape[-1]) > 1:
        stride += 1
    picked = flat[::stride]
    return picked.to(torch.float32) if picked.dtype in _HALF else picked.clone()


def is_capturing() -> bool:
    """Whether a CUDA graph is being recorded: any reading now would end up in it, or break it."""
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and torch.cuda.is_current_stream_capturing()
