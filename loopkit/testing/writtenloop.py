"""Training loops as source: written out from a few choices, and run as if they stood in a file of the user's."""

from __future__ import annotations

import linecache
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loopkit.errors import UsageError, did_you_mean

OPTIMIZERS = {
    "sgd": "torch.optim.SGD({}.parameters(), lr=0.01)",
    "momentum": "torch.optim.SGD({}.parameters(), lr=0.01, momentum=0.9)",
    "adamw": "torch.optim.AdamW({}.parameters(), lr=0.01)",
}
CLEARS = ("none", "zero", "module", "hand")
FAULTS = {
    "missing-zero-grad": "loss.backward()",
    "zero-grad-before-step": "# too early",
    "step-without-fresh-grad": "# once more",
    "accum-scale-wrong": "loss.backward()",
    "scheduler-outpaces-optimizer": "# every batch",
}
"""The rules that a written loop may break, and text of the line at which it does."""
WINDOWED = ("accum-scale-wrong", "scheduler-outpaces-optimizer")
"""Of these, those that take a window of several micro-batches."""
_INDENT = "    "


@dataclass(frozen=True)
class WrittenLoop:
    """A small loop that trains, as plain PyTorch: call it to run it, print `source` to read it.

    Without a `fault` it is right. Its lines count as the user's, so findings name lines of `source`.

    Args:
        optimizers: "sgd", "momentum" or "adamw": one for the model, or one for each of two layers.
        window: micro-batches an update; each loss is divided by the length of its window.
        updates: whole windows an epoch.
        epochs: passes over the data.
        tail: micro-batches left over at the end of an epoch, stepped as a window of their own length.
        clear: how gradients are cleared: "none", "zero", "module" or "hand".
        first: they are cleared before the forward, not after the step.
        clip, scheduled: gradients are clipped; a schedule advances with each update.
        fault: a rule that it breaks, of `FAULTS`; "" for none.

    Raises:
        UsageError: there is no such fault, or it takes a window of several micro-batches.
    """

    optimizers: tuple[str, ...] = ("adamw",)
    window: int = 1
    updates: int = 8
    epochs: int = 3
    tail: int = 0
    clear: str = "none"
    first: bool = True
    clip: bool = False
    scheduled: bool = False
    fault: str = ""

    def __post_init__(self) -> None:
        if self.fault and self.fault not in FAULTS:
            raise UsageError(f"no loop is written with {self.fault!r}{did_you_mean(self.fault, FAULTS)}")
        if self.fault in WINDOWED and self.window < 2:
            raise UsageError(f"{self.fault} takes a window of 2 or more micro-batches, not {self.window}")

    def __call__(self) -> None:
        """Train; from the same random state each time, which is put back."""
        import torch

        source = self.source
        name = f"<loop {zlib.crc32(source.encode()):08x}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # as a file
        with torch.random.fork_rng():
            torch.manual_seed(0)
            exec(compile(source, name, "exec"), {"__name__": "__main__"})  # noqa: S102 - the text is ours

    @property
    def line(self) -> str | None:
        """Text of the line at which the fault is found; None where there is none."""
        if self.fault == "zero-grad-before-step" and self.clear == "hand":
            return "optimizer.step()"  # a clear by hand is heard by nobody: only that it was is known
        return FAULTS.get(self.fault)

    @property
    def source(self) -> str:
        """The loop as text."""
        return "\n".join([*self._made(), *self._loop(), ""])

    def _made(self) -> Iterator[str]:
        batches = self.updates * self.window + self.tail
        yield "import torch"
        yield "from torch import nn"
        yield "from torch.utils.data import DataLoader, TensorDataset"
        yield ""
        yield f"model = nn.Sequential({'nn.Linear(3, 4), nn.Linear(4, 2)' if self._several else 'nn.Linear(3, 2)'})"
        yield f"features = torch.randn({2 * batches}, 3)"
        yield "targets = 2 * features[:, :2] + 1"
        yield "loader = DataLoader(TensorDataset(features, targets), batch_size=2, shuffle=True)"
        made = [OPTIMIZERS[kind].format(f"model[{i}]") for i, kind in enumerate(self.optimizers)]
        yield f"optimizers = [{', '.join(made)}]" if self._several else f"optimizer = {made[0].replace('[0]', '')}"
        if self._schedules:
            planned = (self.updates + (self.tail > 0)) * self.epochs
            schedule = f"torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={planned})"
            yield (
                f"schedulers = [{schedule} for optimizer in optimizers]"
                if self._several
                else f"scheduler = {schedule}"
            )
        yield ""

    def _loop(self) -> Iterator[str]:
        yield f"for epoch in range({self.epochs}):"
        yield f"{_INDENT}for i, (x, y) in enumerate(loader):"
        for line in self._micro_batch():
            yield f"{_INDENT * 2}{line}"

    def _micro_batch(self) -> Iterator[str]:
        whole = self.window * self.updates
        size = f"({self.tail} if i >= {whole} else {self.window})" if self.tail else str(self.window)
        clears = self.fault not in ("missing-zero-grad", "zero-grad-before-step")
        if clears and self.first:
            yield from self._once(f"i % {self.window} == 0", self._cleared())
        divided = f" / {size}" if self.window > 1 and self.fault != "accum-scale-wrong" else ""
        yield f"loss = nn.functional.mse_loss(model(x), y){divided}"
        yield "loss.backward()"
        if self.fault == "scheduler-outpaces-optimizer":
            yield from self._each("scheduler", "step()  # every batch")
        last = [*self._stepped(), *(self._cleared() if clears and not self.first else ())]
        yield from self._once(f"i % {self.window} == {size} - 1", last)

    def _once(self, when: str, lines: Iterable[str]) -> Iterator[str]:
        """Lines that stand in a condition where a window has several micro-batches."""
        if self.window > 1:
            yield f"if {when}:"
        for line in lines:
            yield f"{_INDENT * (self.window > 1)}{line}"

    def _stepped(self) -> Iterator[str]:
        if self.fault == "zero-grad-before-step":
            yield from self._cleared("  # too early")
        if self.clip:
            yield "nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
        yield from self._each("optimizer", "step()")
        if self.fault == "step-without-fresh-grad":
            yield from self._each("optimizer", "step()  # once more")
        if self._schedules and self.fault != "scheduler-outpaces-optimizer":
            yield from self._each("scheduler", "step()")

    def _cleared(self, comment: str = "") -> Iterator[str]:
        if self.clear == "module":
            yield f"model.zero_grad(){comment}"
        elif self.clear == "hand":
            yield "for parameter in model.parameters():"
            yield f"{_INDENT}parameter.grad = None{comment}"
        else:
            given = "set_to_none=False" if self.clear == "zero" else ""
            yield from self._each("optimizer", f"zero_grad({given}){comment}")

    def _each(self, name: str, call: str) -> Iterator[str]:
        if self._several:
            yield f"for {name} in {name}s:"
        yield f"{_INDENT * self._several}{name}.{call}"

    @property
    def _several(self) -> bool:
        return len(self.optimizers) > 1

    @property
    def _schedules(self) -> bool:
        return self.scheduled or self.fault == "scheduler-outpaces-optimizer"
