"""`torch.manual_seed` → `generator_seeded`. Heard at an inner helper: the public name is imported everywhere."""

from __future__ import annotations

from typing import Any

import torch

from loopkit.run import Run
from loopkit.taps.patch import Handle, Tap, Taps

_KIND = 42
"""Stands for this call among those whose last site is remembered; events of an update have smaller numbers."""


def install(run: Run) -> Handle:
    """Listen to seeding, where this torch has the helper."""
    if not hasattr(torch.random, "_seed_custom_device"):
        return Taps()
    return Tap(torch.random, "_seed_custom_device", run, _before)


def _before(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    site = run.recorder.sites.here(_KIND, brief=True)
    run.emit("generator_seeded", seed=args[0] if args else kwargs.get("seed"), site=site)
