"""What a model's structure says of its input: the id it declares as padding, masks it takes, what comes first."""

from __future__ import annotations

import inspect
import weakref
from typing import NamedTuple

from torch import nn

from loopkit.models import unwrapped

_MODULES = 5_000
"""Modules looked at; of a larger model, the first ones."""


class ModelShape(NamedTuple):
    """What a model's structure says.

    Args:
        filler: the one `padding_idx` of its embeddings, or else `pad_token_id` of its configuration; None where
            there is none, or several.
        takes_mask: its forward has an argument `attention_mask`.
        causal: some of its attention says that it is causal; or it has one recurrent layer, which runs forward.
        two_way: some says that it is not: all of it, or that of the encoder before a decoder.
        first: the class of the first module that has parameters of its own.
    """

    filler: int | None
    takes_mask: bool
    causal: bool
    two_way: bool
    first: str


class ModelShapes:
    """Looks at each model once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[nn.Module], ModelShape]] = {}

    def of(self, module: nn.Module) -> ModelShape:
        """The structure of this model, as it was when it was first seen."""
        known = self._known.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        shape = _look(unwrapped(module))
        self._known[id(module)] = weakref.ref(module), shape
        return shape


def _look(module: nn.Module) -> ModelShape:
    fillers: set[int] = set()
    causal: set[bool] = set()
    one_way: list[bool] = []
    first = ""
    for _, each in zip(range(_MODULES), module.modules(), strict=False):
        if isinstance(each, nn.Embedding) and each.padding_idx is not None:
            fillers.add(each.padding_idx)
        said = vars(each).get("is_causal")
        if isinstance(said, bool):
            causal.add(said)
        if isinstance(each, nn.RNNBase):
            one_way.append(not each.bidirectional)
        if not first and each._parameters:
            first = type(each).__name__
    try:
        takes_mask = "attention_mask" in inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        takes_mask = False
    config = getattr(module, "config", None)
    if not fillers and isinstance(declared := getattr(config, "pad_token_id", None), int):
        fillers.add(declared)
    filler = fillers.pop() if len(fillers) == 1 else None
    two_way = False in causal and (True not in causal or getattr(config, "is_encoder_decoder", False) is True)
    return ModelShape(filler, takes_mask, True in causal or (one_way == [True] and not causal), two_way, first)
