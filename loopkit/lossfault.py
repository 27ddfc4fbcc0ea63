"""Which operation of a loss, behind the model, made it bad: read from its graph just before backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from loopkit.replay import Origin, count_of_bad
from loopkit.unseen import unseen

if TYPE_CHECKING:
    from torch import Tensor

    from loopkit.lossgraph import Node

_DEEPEST = 64  # nodes from the root
_LOGARITHMS = ("LogBackward0", "Log2Backward0", "Log10Backward0")


def fault_of(loss: Tensor, is_hooked: Callable[[Node], bool]) -> Origin:
    """The first operation below the loss that explains a bad value; where there is none, that it is in the loss.

    Args:
        loss: that is not finite, while all that the model returned is.
        is_hooked: whether asking a node for what it saved would run hooks.
    """
    waiting: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    with unseen():
        while waiting and len(seen) < _DEEPEST:
            node = waiting.pop(0)
            if node is None or node in seen:
                continue
            seen.add(node)
            found = None if is_hooked(node) else _fault(node)
            if found is not None:
                return found
            waiting += [each for each, _ in node.next_functions]
    return Origin("loss")


def _fault(node: Node) -> Origin | None:
    target = _saved(node, "_saved_target")
    bad = count_of_bad(target) if target is not None else 0
    if target is not None and bad:
        return Origin("target", bad=bad, total=target.numel())
    name = node.name()
    if name in _LOGARITHMS:
        values = _saved(node, "_saved_self")
        return _counted("a logarithm", values, values <= 0) if values is not None else None
    if name.startswith("DivBackward"):
        values = _saved(node, "_saved_other")
        return _counted("a division", values, values == 0) if values is not None else None
    return None


def _counted(name: str, values: Tensor, faulty: Tensor) -> Origin | None:
    bad = int(faulty.sum())
    return Origin("operation", name, bad=bad, total=values.numel()) if bad else None


def _saved(node: Node, name: str) -> Tensor | None:
    """A real, plain tensor that a node saved."""
    try:
        value = getattr(node, name, None)
    except RuntimeError:  # freed by an earlier backward
        return None
    if not isinstance(value, torch.Tensor) or type(value) not in (torch.Tensor, torch.nn.Parameter):
        return None
    return value if value.is_floating_point() and not value.is_meta else None
