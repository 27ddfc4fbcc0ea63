"""A moving average of the weights that is never brought up to date."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.optim.swa_utils import AveragedModel

from loopkit import CallSites, Confidence, Finding, Run, Severity, Site, hookimpl

_SITE = 64  # for the cache of call sites; no event of loopkit's own has it
_MOST = 16


class EmaBroken:
    """An `AveragedModel` is evaluated, and holds the weights that it was made with: it was never updated.

    What it looks for
        A `torch.optim.swa_utils.AveragedModel` that is put in evaluation mode after the optimizer has stepped, with
        `n_averaged` at 0, and stays so to the end of the run.

    Why that hurts
        What is evaluated, compared and saved as the average is the model as it was when the average was made,
        often as it was initialized.

    A loop that has it
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        for x, y in loader:
            train_step(model, x, y)
        ema.eval()
        evaluate(ema)

    The repair
        `ema.update_parameters(model)` after each step, or after each epoch of the last part of training.

    Left alone
        Averages that begin late, if they begin; evaluation mode that is set before training; averages that are only
        made. Of classes of other makers, and deep copies that are averaged by hand, it is not known how often they
        were updated: a target or opponent that is frozen on purpose looks like them.

    What it costs
        When an `AveragedModel` is put in evaluation mode, its counter is read, until it is not 0.
    """

    rule = "ema-broken"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._suspects: list[_Suspect] = []

    @hookimpl
    def mode_changed(self, run: Run, module: torch.nn.Module, training: bool) -> None:
        """Look at an average that is about to be evaluated."""
        if training or not isinstance(module, AveragedModel) or not run.steps:
            return
        known = next((each for each in self._suspects if each.average() is module), None)
        if known is None and (len(self._suspects) >= _MOST or int(module.n_averaged)):
            return
        if known is None:
            name = type(module.module).__name__
            site = run.instrument(CallSites).here(_SITE)
            self._suspects.append(_Suspect(weakref.ref(module), module.n_averaged, name, site, run.steps))
        elif known.empty:
            known.empty, known.times, known.steps = not int(module.n_averaged), known.times + 1, run.steps

    @hookimpl
    def run_finished(self) -> Iterator[Finding]:
        """Those that are still as they were made."""
        for each in self._suspects:
            module = each.average()
            count = module.n_averaged if isinstance(module, AveragedModel) else each.count
            if each.empty and not int(count):
                yield self._finding(each)

    def _finding(self, found: _Suspect) -> Finding:
        place = found.site.chain[0] if found.site.chain else found.site.place
        times = "once" if found.times == 1 else f"{found.times} times"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=place,
            subject=found.model,
            seen=f"the AveragedModel of {found.model} is put in evaluation mode {times}, last after {found.steps} "
            "steps, and update_parameters() was never called: n_averaged is 0",
            why="it holds the weights that it was made with: what is evaluated has none of the training since",
            remedy="call average.update_parameters(model) after optimizer.step()",
            evidence={"evaluations": found.times, "steps": found.steps},
        )


@dataclass
class _Suspect:
    """An average without an update.

    Args:
        count: how many it has had, one number; kept, since an update may come after this look, and the model go.
    """

    average: Callable[[], torch.nn.Module | None]
    count: torch.Tensor
    model: str
    site: Site
    steps: int
    times: int = 1
    empty: bool = True
