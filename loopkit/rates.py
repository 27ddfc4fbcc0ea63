"""Schedulers of a `Loop`: when they fit it, how they advance, and the rates there are."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from loopkit.errors import UsageError

PER = ("update", "epoch")


def check(scheduler: Any, per: str, *, evaluates: bool) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: the unit is none, or the scheduler wants a number that this loop does not have.
    """
    if per not in PER:
        raise UsageError(f"scheduler_per is 'update' or 'epoch', not {per!r}")
    if isinstance(scheduler, ReduceLROnPlateau) and (per != "epoch" or not evaluates):
        raise UsageError('ReduceLROnPlateau follows "val/loss": give eval_loader= and scheduler_per="epoch"')


def advance(scheduler: Any, loss: float | None) -> None:
    """Advance a scheduler; one that has come to its end keeps its last rate, and that is said.

    Args:
        scheduler: of torch, or what has a `step` like theirs.
        loss: the last "val/loss", which `ReduceLROnPlateau` follows.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        if loss is not None:
            scheduler.step(loss)
    elif isinstance(scheduler, OneCycleLR) and scheduler.last_epoch >= scheduler.total_steps:
        for group in scheduler.optimizer.param_groups:
            group["lr"] = group["min_lr"]
        warnings.warn(
            f"OneCycleLR was made for {scheduler.total_steps} steps, and training goes on: the rate stays at its end",
            stacklevel=2,
        )
    else:
        scheduler.step()


def of(optimizer: torch.optim.Optimizer) -> list[tuple[str, Any]]:
    """Name and learning rate of each parameter group: "train/lr" for the first, "train/lr/group1" for the next."""
    found = []
    for number, group in enumerate(optimizer.param_groups):
        rate = group["lr"]
        if isinstance(rate, torch.Tensor):
            rate = rate.detach().clone()  # it is changed in place
        found.append((f"train/lr/group{number}" if number else "train/lr", rate))
    return found
