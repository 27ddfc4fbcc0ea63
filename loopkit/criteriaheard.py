"""How a loss was made of a model's output, so that it can be made again of another output: for probes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from loopkit.lossmean import CRITERIA
from loopkit.rehearsal import tensors


class CriteriaHeard:
    """Hears the losses of `torch.nn` and `torch.nn.functional` between `begin` and `end`."""

    def __init__(self) -> None:
        self._patched: list[tuple[Any, str, Any, Any]] = []
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def begin(self) -> None:
        """Wrap the functions that losses call."""
        if self._patched:
            return
        self._calls.clear()
        for each in CRITERIA:
            original = vars(each.owner)[each.name]
            ours = self._around(original)
            setattr(each.owner, each.name, ours)
            self._patched.append((each.owner, each.name, original, ours))

    def end(self) -> None:
        """Leave them as they were."""
        while self._patched:
            owner, name, original, ours = self._patched.pop()
            if vars(owner)[name] is ours:
                setattr(owner, name, original)

    def loss_of(self, output: Any, loss: Any) -> Callable[[Any], Tensor] | None:
        """A function that makes such a loss of another output; None where it is not known how this one was made.

        Args:
            output: what the model returned.
            loss: what was made of it.
        """
        calls, self._calls = self._calls, []
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(own, Tensor) and _comes_from(loss, own):
            return _own_loss
        leaves = list(tensors(output))
        for function, args, kwargs, result in reversed(calls):
            at = next((n for n, leaf in enumerate(leaves) if args and _is_view(args[0], leaf)), None)
            if at is not None and _comes_from(loss, result):
                return functools.partial(_again, function, at, leaves[at].stride(), args, kwargs)
        return None

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._calls.append((original, args, kwargs, result))
            return result

        return wrapper


def _own_loss(output: Any) -> Tensor:
    loss: Tensor = output["loss"] if isinstance(output, Mapping) else output.loss
    return loss


def _again(
    function: Callable[..., Tensor],
    at: int,
    stride: tuple[int, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> Tensor:
    given, leaf = args[0], list(tensors(output))[at]
    if given.shape != leaf.shape or given.stride() != leaf.stride():
        if leaf.stride() != stride:
            leaf = leaf.contiguous()
        leaf = leaf.as_strided(given.shape, given.stride(), given.storage_offset())
    return function(leaf, *args[1:], **kwargs)


def _is_view(given: Any, leaf: Tensor) -> bool:
    if not isinstance(given, Tensor) or given.numel() != leaf.numel():
        return False
    return given is leaf or given._base is leaf or (given._base is not None and given._base is leaf._base)


def _comes_from(loss: Any, result: Any) -> bool:
    """Whether the loss is this very tensor, or it divided by a constant."""
    if loss is result:
        return True
    node = getattr(loss, "grad_fn", None)
    if node is None or not node.next_functions:
        return False
    inner = node.next_functions[0][0]
    return inner is not None and node.name() in ("DivBackward0", "MulBackward0") and inner is result.grad_fn
