"""Which parameters have kept their values since they were first asked about: nobody has trained them, by any means.

A change in place counts in `_version`, a replacement changes the address, and a write through `.data` shows in the
values alone: the sum of a few of them is kept on its device and read when a parameter is asked about again.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 50_000
_SUMMED = 1 << 24  # numbers; of a larger parameter only the first so many are summed


class _Known:
    """What a parameter was like when first asked about."""

    __slots__ = ("address", "changed", "parameter", "since", "total", "version", "walks")

    def __init__(self, parameter: Tensor, updates: int) -> None:
        self.parameter = weakref.ref(parameter)
        self.version = parameter._version
        self.address = parameter.data_ptr()
        self.total: Tensor | None = None
        self.since = updates
        self.walks = 0
        self.changed = False


class Untouched:
    """Remembers what parameters were like."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def ask(self, parameter: Tensor, updates: int) -> tuple[int, int]:
        """For how many updates it has kept its values, and how often it was asked about; (0, 0) if it has not.

        `updates`: how many there have been. Values are not read: `confirm` does that.
        """
        known = self._get(parameter, updates)
        if known is None:
            return 0, 0
        known.walks += 1
        if parameter._version != known.version or parameter.data_ptr() != known.address:
            known.changed = True
        return (0, 0) if known.changed else (updates - known.since, known.walks)

    def confirm(self, parameters: Sequence[Tensor]) -> bool:
        """Whether the values of these parameters are those of the last confirmation, as far as one has been made.

        Waits for the device: one number for each parameter that was asked before.
        """
        same = True
        with unseen(), torch.no_grad():
            for parameter in parameters:
                known = self._known.get(id(parameter))
                if known is None or known.changed:
                    return False
                total = parameter.detach().flatten()[:_SUMMED].sum()
                before, known.total = known.total, total
                if before is None:
                    same = False  # nothing to compare with yet
                elif not torch.equal(before, total):
                    known.changed, same = True, False
        return same

    def _get(self, parameter: Tensor, updates: int) -> _Known | None:
        key = id(parameter)
        known = self._known.get(key)
        if known is not None and known.parameter() is parameter:
            return known
        if len(self._known) >= _MOST:
            self._known = {key: each for key, each in self._known.items() if each.parameter() is not None}
            if len(self._known) >= _MOST:
                return None
        known = self._known[key] = _Known(parameter, updates)
        return known
