"""A model that cannot learn even one batch by heart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from loopkit import Confidence, CriteriaHeard, Finding, Rehearsal, Run, Severity, Take, hookimpl

_RATES, _STEPS = (1e-3, 1e-2, 1e-4), 100
_ENOUGH, _NOTHING = 0.5, 0.9  # of the first loss: it learns; it learns nothing
_SMALL = 0.05  # a loss that is this low has been learned already


class CannotOverfitOneBatch:
    """Trained on one batch again and again, the loss does not fall.

    What it looks for
        On a copy of the model: the first training batch is trained on for 100 steps of AdamW, at up to three learning
        rates. At the best of them the loss must fall below 0.9 of what it was.

    Why that hurts
        A model that cannot learn 32 samples by heart learns nothing from 32,000: a path without gradient, labels
        that do not belong to the inputs' shapes, a loss of something else.

    A loop that has it
        for x, y in loader:
            loss = criterion(model(x.detach().round()) * 0 + bias, y)

    The repair
        Look at the other findings, at what reaches the loss, and at the parameters that get a gradient.

    Left alone
        A loss that is small already; losses that are zero or below; losses that are neither the model's own `.loss`
        nor a `torch.nn` loss of the model's output: those are listed as not checked.

    What it costs
        A copy of the model and up to 300 training steps, once; only with `--probe`.
    """

    rule = "cannot-overfit-one-batch"
    severity = Severity.WARNING
    confidence = Confidence.PROBE

    def __init__(self) -> None:
        self._call: tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any], Any] | None = None
        self._done = False

    @hookimpl
    def after_forward(
        self, run: Run, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Listen for the loss that is made of the first training forward."""
        trains = module.training and any(each.requires_grad for each in module.parameters())  # a criterion has none
        if trains and not self._done and torch.is_grad_enabled():
            self._call = module, args, kwargs, output
            run.instrument(CriteriaHeard).begin()

    @hookimpl
    def before_backward(self, run: Run, loss: Any) -> Finding | None:
        """Try it when the loss is there."""
        call, self._call = self._call, None
        heard = run.instrument(CriteriaHeard)
        heard.end()
        if call is None or self._done:
            return None
        self._done = True
        module, args, kwargs, output = call
        with run.instrument(Rehearsal).take(run, self.rule, module, args, kwargs) as take:
            if take is None:
                return None
            again = heard.loss_of(output, loss)
            if again is None:
                run.could_not_check(
                    self.rule, "the loss is neither the model's own nor a torch.nn loss of its output"
                )
                return None
            return self._try(module, take, again)
        return None

    @hookimpl
    def run_finished(self, run: Run) -> None:
        """Leave torch's functions as they were."""
        run.instrument(CriteriaHeard).end()

    def _try(self, module: torch.nn.Module, take: Take, loss_of: Callable[[Any], Tensor]) -> Finding | None:
        start = {name: value.clone() for name, value in take.model.state_dict().items()}
        best = first = float("nan")
        for rate in _RATES:
            take.model.load_state_dict(start)
            reached, first = _lowest(take, loss_of, rate)
            if not first > _SMALL:
                return None
            best = reached if best != best else min(best, reached)
            if best <= _NOTHING * first:
                return None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=take.place,
            subject=type(module).__name__,
            seen=f"trained on its first batch alone for {_STEPS} steps, at rates of 1e-4 to 1e-2, a copy of the "
            f"model brought the loss from {first:.4g} to {best:.4g} at best",
            why="a model that cannot learn one batch by heart will not learn the data set either",
            remedy="look at the other findings, at what reaches the loss, and at which parameters get a gradient",
            evidence={"first": first, "best": best},
        )


def _lowest(take: Take, loss_of: Callable[[Any], Tensor], rate: float) -> tuple[float, float]:
    """The lowest loss that was reached, and the first."""
    optimizer = torch.optim.AdamW([each for each in take.model.parameters() if each.requires_grad], lr=rate)
    lowest = first = float("nan")
    for step in range(_STEPS + 1):
        optimizer.zero_grad()
        loss = loss_of(take.model(*take.args, **take.kwargs))
        value = float(loss.detach())
        if step == 0:
            lowest = first = value
        lowest = min(lowest, value)
        if lowest <= _ENOUGH * first or value != value:
            break
        torch.autograd.backward(loss)
        optimizer.step()
    return lowest, first
