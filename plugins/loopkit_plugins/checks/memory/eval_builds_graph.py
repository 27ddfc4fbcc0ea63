"""An evaluation builds graphs that nothing is sent back through."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Evaluated, Finding, Modes, Run, Severity, hookimpl


class EvalBuildsGraph:
    """The model is evaluated with gradients on.

    What it looks for
        A model that an optimizer trains was put in evaluation mode and called at least twice with gradients on, with
        no backward and no call without gradients until it was put back in training mode, or the run ended.

    Why that hurts
        Each forward keeps its activations for a backward that does not come: memory, and some time, for nothing. If
        the loss or the outputs are kept as they are, memory grows with each batch of the evaluation.

    A loop that has it
        model.eval()
        for x, y in val_loader:
            total += criterion(model(x), y).item()
        model.train()

    The repair
        Put the evaluation in `with torch.no_grad():` or `torch.inference_mode()`: `eval()` does not switch gradients
        off.

    Left alone
        Adversarial evaluation and test-time training, which call backward; a single call; models without trainable
        parameters. It is info: what it costs was not measured, and metrics by `torch.autograd.grad` need it.

    What it costs
        Four numbers at each call of `train()` and `eval()`.
    """

    rule = "eval-builds-graph"
    severity = Severity.INFO
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._said: set[str] = set()

    @hookimpl
    def mode_changed(self, run: Run, training: bool) -> Iterator[Finding]:
        """An evaluation may be over."""
        if training:
            yield from self._judge(run, final=False)

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """The last one is over."""
        yield from self._judge(run, final=True)

    def _judge(self, run: Run, *, final: bool) -> Iterator[Finding]:
        for each in run.instrument(Modes).evaluated_with_gradients(final=final):
            if each.model not in self._said:
                self._said.add(each.model)
                yield self._finding(each)

    def _finding(self, seen: Evaluated) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=seen.site.place,
            places={"eval": seen.site.place},
            subject=seen.model,
            seen=f"{seen.forwards} forward passes followed eval() of {seen.model} with gradients on, and no backward",
            why="each keeps its activations for a backward that does not come; eval() does not switch gradients off",
            remedy="evaluate inside `with torch.no_grad():` or torch.inference_mode()",
            evidence={
                "model": seen.model,
                "forwards": seen.forwards,
                "frames": [str(place) for place in seen.site.chain],
                "framework": str(seen.site.framework) if seen.site.framework else None,
            },
            step=seen.steps,
        )
