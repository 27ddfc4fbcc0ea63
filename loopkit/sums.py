"""Sums of the bits and norms of a replica's parameters, after some steps: few numbers to compare with other ranks'.

After a step that averaged gradients over the ranks, replicas have the same bits. Sums of bits do not depend on the
order of addition, so they are the same too; norms say how far apart two replicas are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from loopkit.samples import can_be_sampled
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.wraps import Wrap

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LATEST = 3
_PARAMETERS = 512
"""Sampled of one model, evenly spread, beyond that."""
Sample = list[list[float]]


class Sums:
    """Samples of each wrapper's parameters: the first one, and the latest.

    Attributes:
        taken: for each wrapper, by its number: names of the parameters, and samples by optimizer and step. Plain
            values, in the order they were taken.
    """

    def __init__(self) -> None:
        self.taken: dict[int, dict[str, Any]] = {}

    def take(self, wrap: Wrap, at: str) -> None:
        """Read the parameters now, all in one transfer of sums and one of norms.

        Args:
            at: what names this moment on every rank.
        """
        found = [(name, each) for name, each in wrap.named() if can_be_sampled(each)]
        found = [(name, each) for name, each in found if each.device == found[0][1].device]
        found = found[:: max(1, -(-len(found) // _PARAMETERS))]
        if not found:
            return
        names = [name for name, _ in found]
        known = self.taken.setdefault(wrap.number, {"ranks": list(wrap.ranks), "names": names, "at": {}})
        if known["names"] != names:
            return
        samples: dict[str, Sample] = known["at"]
        samples[at] = _read([each for _, each in found])
        if len(samples) > _LATEST + 1:
            del samples[list(samples)[1]]


def _read(parameters: list[Tensor]) -> Sample:
    with unseen(), torch.no_grad():
        bits = [each.detach().view(_BITS[each.element_size()]).sum(dtype=torch.int64) for each in parameters]
        norms = [torch.linalg.vector_norm(each.detach()).float() for each in parameters]
        return [list(pair) for pair in zip(torch.stack(bits).tolist(), torch.stack(norms).tolist(), strict=True)]
