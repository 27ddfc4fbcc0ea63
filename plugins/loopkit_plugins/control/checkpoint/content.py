"""What a checkpoint holds, and putting it back."""

from __future__ import annotations

import random
import sys
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .files import CheckpointError

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_SHOWN = 5


def plain(value: Any, at: str) -> Any:
    """A value of containers, numbers, texts and tensors alone, as a file that is read safely may hold them.

    Args:
        value: a state, of any depth.
        at: what it is called where it cannot be stored.

    Raises:
        CheckpointError: something in it is of another kind.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, Counter):  # as MultiStepLR has
        return Counter({plain(key, f"a key of {at}"): int(count) for key, count in value.items()})
    if isinstance(value, Mapping):
        return {plain(key, f"a key of {at}"): plain(each, f"{at}[{key!r}]") for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        made = [plain(each, f"{at}[{i}]") for i, each in enumerate(value)]
        return made if isinstance(value, list) else tuple(made)
    if isinstance(value, (set, frozenset)):
        return {plain(each, f"a member of {at}") for each in value}
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # of numpy
        return value.tolist()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise CheckpointError(
        f"{at} is a {type(value).__name__}, which cannot be stored: only numbers, texts and tensors"
    )


def random_states() -> dict[str, Any]:
    """The states of all random generators that a loop may use."""
    states: dict[str, Any] = {"torch": torch.get_rng_state(), "python": plain(random.getstate(), "random")}
    if torch.cuda._initialized:
        states["cuda"] = torch.cuda.get_rng_state_all()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, keys, *rest = numpy.random.get_state()
        states["numpy"] = [name, keys.tolist(), *rest]
    return states


def restore_random(states: Mapping[str, Any]) -> None:
    """Put the random generators back."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "numpy" in states:
        import numpy

        name, keys, *rest = states["numpy"]
        numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))


def model_state(model: torch.nn.Module) -> dict[str, Any]:
    """A model's class, weights, and the versions of its modules."""
    state = model.state_dict()
    name = type(model).__name__
    metadata = plain(dict(getattr(state, "_metadata", {})), f"the metadata of {name}")
    return {"class": name, "state": plain(dict(state), f"the state of {name}"), "metadata": metadata}


def restore_model(model: torch.nn.Module, saved: Mapping[str, Any], at: str) -> None:
    """Put weights back.

    Raises:
        CheckpointError: they are those of another model: the keys that differ are named, and nothing is changed.
    """
    own, stored = model.state_dict(), saved["state"]
    shapes = [
        f"{key} ({_shape(stored[key])} there, {_shape(own[key])} here)"
        for key in own
        if key in stored and _shape(stored[key]) != _shape(own[key])
    ]
    kinds = {
        "only in the model": [key for key in own if key not in stored],
        "only in the checkpoint": [key for key in stored if key not in own],
        "of another shape": shapes,
    }
    told = [f"{kind}: {_some(keys)}" for kind, keys in kinds.items() if keys]
    if told:
        raise CheckpointError(
            f"{at} is of another model ({saved['class']}, not {type(model).__name__}): {'; '.join(told)}"
        )
    state = OrderedDict(stored)
    state._metadata = OrderedDict(saved["metadata"])  # type: ignore[attr-defined]
    model.load_state_dict(state)


def restore_states(objects: Sequence[Any], saved: Sequence[Mapping[str, Any]], what: str, at: str) -> None:
    """Put the states of optimizers, schedulers or scalers back, in the order they were first seen.

    Raises:
        CheckpointError: there are more or fewer of them, of other classes, or a state does not fit.
    """
    there, here = [each["class"] for each in saved], [type(each).__name__ for each in objects]
    if there != here:
        raise CheckpointError(f"{at} has the {what}s {_some(there)}, here are {_some(here)}")
    for each, state in zip(objects, saved, strict=True):
        try:
            each.load_state_dict(state["state"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{at}: the state of {what} {state['class']} does not fit: {error}") from error


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
