"""Backward runs through a graph whose weights have changed since it was made."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Kind, LossReading, Reach, Run, Severity, Update, hookimpl


class StaleGraphBackward:
    """Backward goes through a graph that was made with other weights than there are now.

    What it looks for
        A backward whose graph used parameters before a step of their optimizer moved them: a second loss of the same
        forward, a retained graph, a hidden state that was not detached. Or parameters whose values were changed
        through `.data` after the forward that used them.

    Why that hurts
        The gradient mixes the activations of the old weights with the new weights: it is the gradient of nothing.
        PyTorch raises an error where its version counters show the change; a step with `fused=True` and a write
        through `.data` do not count.

    A loop that has it
        loss_a, loss_b = losses(model(x), y)
        loss_a.backward(retain_graph=True)
        optimizer.step()
        loss_b.backward()
        optimizer.step()

    The repair
        Run the forward again after the step, or both backwards before it; detach what is carried over. Change weights
        before the forward or after the step.

    Left alone
        Several backwards with no step in between; parameters that the step did not move: no gradient, a rate of 0, a
        step that a GradScaler skipped; loops that run one forward ahead, each graph a step old by design; modules
        that renormalise their weights inside forward; weights changed before the forward and restored after
        backward (BinaryConnect) or clamped after the step; weights in shared memory, which other processes train;
        graphs whose inside cannot be seen.

    What it costs
        A walk of the loss graph, and 128 values of at most 16 parameters of each optimizer copied after the forward,
        in the first four updates, in new shapes of update, and then ever more rarely. They are compared on the
        device; one transfer for each backward that a check sees brings the answer.
    """

    rule = "stale-graph-backward"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._heard_forward = False

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each backward of the update whose graph was walked."""
        forward = any(event.kind is Kind.FORWARD for event in update.events)
        # One forward ahead of the step is a pipeline; to know that there is none, forwards must be heard at all.
        alone = self._heard_forward and not forward
        self._heard_forward = self._heard_forward or forward
        for event, loss in update.losses():
            found = self._judge(event, loss, alone, update.number)
            if found is not None:
                yield found

    @hookimpl(tryfirst=True)
    def run_finished(self, run: Run) -> None:
        """A backward that raised, as PyTorch does where it sees the change, is in the update that was left open."""
        update = run.open_update()
        for finding in self.update_finished(update) if update is not None else ():
            run.report(finding)  # before sinks sum up

    def _judge(self, event: Event, loss: LossReading, alone: bool, number: int) -> Finding | None:
        if event.site is None:
            return None
        for reach in loss.reaches:
            if reach.stale and (reach.current or alone):
                return self._after_step(event, reach, number)
        changed = [reach for reach in loss.reaches if reach.changed]
        return self._by_hand(event, changed[0], number) if changed else None

    def _after_step(self, event: Event, reach: Reach, number: int) -> Finding:
        assert event.site is not None
        step = reach.step.place if reach.step else None
        at = f" at {step}" if step else ""
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place} | ({"step": step} if step else {}),
            subject=reach.optimizer,
            seen=f"backward went through a graph that had used {reach.stale} of {reach.parameters} parameters of "
            f"{reach.optimizer} before its step{at} moved them",
            why="the gradient mixes activations of the old weights with the new weights, and belongs to neither",
            remedy="run the forward again after the step, or all backwards of one forward before it; detach() what "
            "is carried from one step to the next",
            evidence=_evidence(event, reach),
            step=number,
        )

    def _by_hand(self, event: Event, reach: Reach, number: int) -> Finding:
        assert event.site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            subject=reach.optimizer,
            seen=f"at least {reach.changed} of {reach.parameters} parameters of {reach.optimizer} were changed "
            "through `.data` between the forward that used them and this backward",
            why="the gradient mixes activations of the old weights with the new weights; autograd cannot see writes "
            "through `.data`, so it raises no error",
            remedy="change weights before the forward or after optimizer.step(), not between forward and backward",
            evidence=_evidence(event, reach),
            step=number,
        )


def _evidence(event: Event, reach: Reach) -> dict[str, object]:
    return {
        "optimizer": reach.optimizer,
        "parameters": reach.parameters,
        "stale": reach.stale,
        "changed_by_hand": reach.changed,
        "backward_frames": [str(place) for place in event.site.chain] if event.site else [],
        "step_frames": [str(place) for place in reach.step.chain] if reach.step else [],
    }
