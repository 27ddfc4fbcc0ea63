"""Where a model trains and in which precision: its device, autocast, and the scaler that float16 needs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from loopkit.errors import UsageError, did_you_mean

PLAIN = contextlib.nullcontext()
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def place(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device | str) -> torch.device:
    """Move a model, and what its optimizer has learnt, to a device; "auto" is CUDA for a model on the CPU, if any.

    A model that is spread over several devices stays where it is. Parameters keep their identity.

    Raises:
        UsageError: there is no such device.
    """
    homes = list(dict.fromkeys(parameter.device for parameter in model.parameters()))
    home = homes[0] if homes else torch.device("cpu")
    if device == "auto":
        chosen = torch.device("cuda") if home.type == "cpu" and torch.cuda.is_available() else home
    else:
        chosen = _named(device)
    if len(homes) > 1 or (chosen.type, chosen.index or 0) == (home.type, home.index or 0):
        return home
    model.to(chosen)
    if optimizer.state:
        optimizer.load_state_dict(optimizer.state_dict())  # which moves it to where the parameters are
    return chosen


def _named(device: torch.device | str) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"there is no device {device!r}: give 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device={str(device)!r}, and this torch sees no CUDA device: use 'cpu' or 'auto'")
    return chosen


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on a device: tensors, and what holds them in tuples, lists and mappings."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(moved(value, device) for value in batch)
    return batch


class Precision:
    """How forward and backward compute.

    Args:
        name: "fp32": as the model's parameters are; "bf16": autocast; "fp16": autocast and a GradScaler.
        device: where the model is.

    Attributes:
        scaler: the GradScaler of "fp16", or None.

    Raises:
        UsageError: there is no such precision, or the device has it not.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name not in PRECISIONS:
            known = ", ".join(map(repr, PRECISIONS))
            raise UsageError(f"precision is one of {known}, not {name!r}{did_you_mean(str(name), PRECISIONS)}")
        if name == "fp16" and device.type != "cuda":
            raise UsageError(
                f"precision='fp16' needs a CUDA device, and this model is on {str(device)!r}: its gradients need a "
                "GradScaler, which is of use there only; use 'bf16', which needs none, or 'fp32'"
            )
        if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise UsageError("this GPU has no bfloat16: use precision='fp16' or 'fp32'")
        self._type, self._dtype = device.type, PRECISIONS[name]
        self.scaler = torch.amp.GradScaler("cuda") if name == "fp16" else None

    def parts(self) -> dict[str, Any]:
        """What has a state: the scaler, where there is one."""
        return {} if self.scaler is None else {"scaler": self.scaler}

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward."""
        return PLAIN if self._dtype is None else torch.autocast(self._type, dtype=self._dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Send a loss backward, scaled where small gradients would vanish."""
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def clip(self, optimizer: torch.optim.Optimizer, limit: float) -> None:
        """Clip the norm of all gradients together, as they are without the scaler's scale."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, limit)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Step; whether that was executed, and not left out by the scaler."""
        if self.scaler is None:
            optimizer.step()
            return True
        executed: list[bool] = []
        handle = optimizer.register_step_post_hook(lambda *_: executed.append(True))
        try:
            self.scaler.step(optimizer)
        finally:
            handle.remove()
        self.scaler.update()
        return bool(executed)


def gathering(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """The context of a micro-batch: DistributedDataParallel averages over its ranks with the last of a window."""
    apart = None if last else getattr(model, "no_sync", None)
    return PLAIN if apart is None else apart()
