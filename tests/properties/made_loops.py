"""Loops made from a plan: real training of a tiny model, and beside it the plain list of what was called.

A plan varies all that correct loops vary (optimizers, window, ways and places of clearing, losses, tails, schedules,
steps a GradScaler skips, closures) and may hold one fault, from some update on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FAULTS = {
    "missing clear": "any",
    "clear before step": "any",
    "clear every micro-batch": "window",
    "step before backward": "single",
    "step twice": "any",
    "not divided": "window",
    "divided twice": "window",
    "scheduler every micro-batch": "window",
    "tail not stepped": "window",
    "tail divided by the window": "window",
    "first micro-batch steps": "window",
}
"""Each fault, and the plans it can be put into: with a window of one batch, of several, or any."""
LATE = ("missing clear", "clear before step", "clear every micro-batch", "step before backward", "step twice")
"""Faults that may begin late; a scale or a length that changes once is how it was before."""
SHARED = ("not divided", "divided twice", "tail not stepped", "tail divided by the window", "first micro-batch steps")
"""Faults put only where one loss reaches all: several losses through one line may be several tasks."""
WIPES = ("clear before step", "clear every micro-batch", "step before backward")
"""Faults that clear fresh gradients: zeroed in place by hand, these read as scaled by hand, and are not accused."""
CLEARS = ("none", "zero", "module", "hand", "hand-zero")
OPTIMIZERS = ("sgd", "momentum", "adamw", "fused", "closure")


@dataclass(frozen=True)
class Plan:
    """How one loop is written.

    Args:
        optimizers: each owns one part of the model.
        window: micro-batches an update.
        updates: whole windows an epoch.
        tail: micro-batches left over at the end of an epoch, stepped as a window of their own size.
        together: one loss reaches all parts; else each part has its own, sent backward in turn.
        clear, first: how gradients are cleared, and whether before the forward or after the step.
        late: the update from which on the fault is there.
    """

    optimizers: tuple[str, ...] = ("sgd",)
    window: int = 1
    updates: int = 6
    epochs: int = 3
    tail: int = 0
    together: bool = True
    clear: str = "none"
    first: bool = True
    scheduled: bool = False
    scaler: bool = False
    fault: str = ""
    late: int = 0


class Call(NamedTuple):
    """One call of a loop: what, by or of which part, and with which weight on the mean over its micro-batch."""

    kind: str
    part: int = 0
    weight: float = 0.0


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans without a fault, and with one."""
    window = draw(st.integers(1, 5))
    fitting = [name for name, where in FAULTS.items() if where == "any" or (where == "window") == (window > 1)]
    fault = draw(st.sampled_from(["", *fitting]))
    kinds = OPTIMIZERS if window == 1 and not fault else OPTIMIZERS[:-1]
    optimizers = tuple(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)))
    return Plan(
        optimizers=optimizers,
        window=window,
        updates=draw(st.integers(8, 12)),
        tail=draw(st.integers(min(window - 1, "tail" in fault), window - 1)),
        together=draw(st.booleans()) or fault in SHARED,
        clear=draw(st.sampled_from(CLEARS[:-1] if fault in WIPES + SHARED else CLEARS)),
        first=draw(st.booleans()),
        scheduled=draw(st.booleans()) or fault.startswith("scheduler"),
        scaler=draw(st.booleans()) and not fault and "closure" not in optimizers,
        fault=fault,
        late=draw(st.sampled_from([0, 0, 1, 3, 10])) if fault in LATE else 0,
    )


class Training:
    """One loop as planned; `calls` is what it did."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.calls: list[Call] = []
        self.parts = [nn.Linear(3, 2) for _ in plan.optimizers]
        self.optimizers = [_optimizer(kind, part) for kind, part in zip(plan.optimizers, self.parts, strict=True)]
        planned = plan.epochs * (plan.updates + (plan.tail > 0))
        driven = self.optimizers if plan.scheduled else []
        self.schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(each, planned) for each in driven]
        self.scaler = torch.amp.GradScaler("cpu", enabled=plan.scaler, init_scale=4.0, growth_interval=10**6)
        count = (plan.updates * plan.window + plan.tail) * 2
        data = TensorDataset(torch.randn(count, 3), torch.randn(count, 2))
        self.loader = DataLoader(data, batch_size=2)
        self.update = 0

    def run(self) -> list[Call]:
        """Train; the calls in order."""
        plan, number = self.plan, len(self.loader)
        for _ in range(plan.epochs):
            self.calls.append(Call("epoch"))
            for i, (x, y) in enumerate(self.loader):
                position = i % plan.window
                size = plan.tail if i >= number - plan.tail else plan.window
                divisor = plan.window if self._has("tail divided by the window") else size
                last = position == size - 1
                if self._has("first micro-batch steps"):
                    divisor, last = plan.window, position == 0
                elif self._has("tail not stepped"):
                    divisor, last = plan.window, position == plan.window - 1
                self._micro_batch(x, y, position, divisor, last=last)
        return self.calls

    def _has(self, fault: str) -> bool:
        return self.plan.fault == fault and self.update >= self.plan.late

    def _micro_batch(self, x: Tensor, y: Tensor, position: int, size: int, *, last: bool) -> None:
        plan = self.plan
        if self._has("step before backward"):
            self._clear()
            self._backward(x, y, size, after=self._step)
            self._schedule()
            self.update += 1
            return
        if (plan.first and position == 0 and not self._has("missing clear")) or self._has("clear every micro-batch"):
            self._clear()
        if "closure" not in plan.optimizers:
            self._backward(x, y, size)
        if self._has("scheduler every micro-batch"):
            self._schedule()
        if not last:
            return
        if self._has("clear before step"):
            self._clear()
        self._step(x, y)
        if self._has("step twice"):
            self._step(x, y)
        if not self._has("scheduler every micro-batch"):
            self._schedule()
        if not plan.first and not self._has("missing clear"):
            self._clear()
        self.update += 1

    def _backward(self, x: Tensor, y: Tensor, size: int, after: Callable[[], None] | None = None) -> None:
        power = 0 if self._has("not divided") else 2 if self._has("divided twice") else 1
        weight = 1.0 / size**power
        # A loss that is not finite, now and then: the scaler skips its step.
        bad = float("inf") if self.plan.scaler and self.update % 5 == 4 else 1.0
        outputs = [part(x) for part in self.parts]
        self.calls += [Call("forward", part) for part in range(len(self.parts))]
        if after is not None:
            after()
        if self.plan.together:
            self._send(nn.functional.mse_loss(sum(outputs), y) * bad, weight, range(len(self.parts)))
            return
        for i, output in enumerate(outputs):
            self._send(nn.functional.mse_loss(output, y) * bad, weight, [i])

    def _send(self, loss: Tensor, weight: float, reached: range | list[int]) -> None:
        self.scaler.scale(loss if weight == 1.0 else loss * weight).backward()
        self.calls += [Call("backward", part, weight) for part in reached]

    def _step(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        for i, optimizer in enumerate(self.optimizers):
            if "closure" in self.plan.optimizers and x is not None and y is not None:
                self._step_with_closure(i, x, y)
            else:
                self.scaler.step(optimizer)
                skipped = self.plan.scaler and self.update % 5 == 4
                self.calls.append(Call("skip" if skipped else "step", i))
        self.scaler.update()

    def _step_with_closure(self, i: int, x: Tensor, y: Tensor) -> None:
        optimizer = self.optimizers[i]

        def closure() -> float:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(self.parts[i](x), y)
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)
        self.calls += [Call("clear", i), Call("backward", i, 1.0), Call("step", i)]

    def _schedule(self) -> None:
        if self.plan.scheduled:
            for i, scheduler in enumerate(self.schedulers):
                scheduler.step()
                self.calls.append(Call("schedule", i))

    def _clear(self) -> None:
        for i, (optimizer, part) in enumerate(zip(self.optimizers, self.parts, strict=True)):
            self.calls.append(Call("clear", i))
            if self.plan.clear in ("none", "zero"):
                optimizer.zero_grad(set_to_none=self.plan.clear == "none")
            elif self.plan.clear == "module":
                part.zero_grad()
            else:
                for parameter in part.parameters():
                    if self.plan.clear == "hand":
                        parameter.grad = None
                    elif parameter.grad is not None:
                        parameter.grad.zero_()


def _optimizer(kind: str, part: nn.Module) -> torch.optim.Optimizer:
    if kind in ("sgd", "momentum", "closure"):
        return torch.optim.SGD(part.parameters(), lr=0.01, momentum=0.9 if kind == "momentum" else 0.0)
    return torch.optim.AdamW(part.parameters(), lr=0.01, fused=kind == "fused")
