"""The random states of a process, as plain data that `torch.load(weights_only=True)` reads back."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch
from torch.utils.data import DataLoader

State = dict[str, Any]


def states(loader: Any) -> State:
    """Those of Python, torch, its accelerators, numpy where it is imported, and a loader's own generators."""
    found: State = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, keys, position, has_gauss, gauss = numpy.random.get_state()
        found["numpy"] = [name, torch.tensor(keys.tolist()), position, has_gauss, gauss]
    found["loader"] = [generator.get_state() for generator in generators(loader)]
    return found


def restore(found: State, loader: Any) -> None:
    """Set them all. Of what this process has not, an accelerator or numpy, nothing is set."""
    kind, keys, gauss = found["python"]
    random.setstate((kind, tuple(keys), gauss))
    torch.set_rng_state(found["torch"].cpu())
    if "cuda" in found and torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), found["cuda"], strict=False):
            torch.cuda.set_rng_state(state.cpu(), device)
    if "mps" in found and torch.backends.mps.is_available():
        torch.mps.set_rng_state(found["mps"].cpu())
    numpy = sys.modules.get("numpy")
    if numpy is not None and "numpy" in found:
        name, numbers, *rest = found["numpy"]
        numpy.random.set_state((name, numbers.tolist(), *rest))
    for generator, state in zip(generators(loader), found["loader"], strict=False):
        generator.set_state(state.cpu())


def generators(loader: Any) -> list[torch.Generator]:
    """The generators that a DataLoader and its samplers were given, each once."""
    if not isinstance(loader, DataLoader):
        return []
    batch_sampler = loader.batch_sampler
    owners = [loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    found: list[torch.Generator] = []
    for owner in owners:
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not known for known in found):
            found.append(generator)
    return found
