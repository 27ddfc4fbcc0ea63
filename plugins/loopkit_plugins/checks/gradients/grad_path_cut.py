"""The loss that is sent backward is not connected to the parameters."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Habit, Kind, LossReading, Severity, StepReading, Update, hookimpl


class GradPathCut:
    """Backward is called on a loss from which no gradient can come to what the optimizer steps.

    What it looks for
        A loss with no graph at all (a new tensor made with `requires_grad=True`), one whose graph ends before any
        parameter, or one that leads to the parameters only through operations whose derivative is 0 everywhere
        (round, floor, sign); and a step in the same update that no other gradient reached. Twice at least, and in
        three of four steps.

    Why that hurts
        No exception is raised: the tensor does require a gradient, and gets one. The model learns nothing.

    A loop that has it
        for x, y in loader:
            optimizer.zero_grad()
            loss = torch.tensor(criterion(model(x), y).item(), requires_grad=True)
            loss.backward()
            optimizer.step()

    The repair
        Call `backward()` on the loss as the criterion returned it. Keep `.item()`, `.numpy()`, `.detach()` and
        `torch.tensor(...)` out of its path, and replace a rounding by a straight-through or a smooth form.

    Left alone
        A batch now and then with a stand-in for its loss; a second backward beside the one that feeds the step;
        optimized inputs and latents; straight-through and score-function estimators; losses sent backward into
        chosen tensors (`inputs=`); gradients written by hand; graphs with a part that cannot be seen (torch.compile,
        custom functions, reentrant checkpoints); losses that lead to parameters of another optimizer.

    What it costs
        Nothing beyond the walk of the loss graph, which is made in the first updates and then ever more rarely.
    """

    rule = "grad-path-cut"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._habit = Habit()

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge an update all of whose losses were walked and none of which trains anything."""
        losses = list(update.losses())
        backwards = sum(event.kind is Kind.BACKWARD for event in update.events)
        if update.truncated or not losses or len(losses) < backwards or not all(loss.cut for _, loss in losses):
            return
        event, loss = losses[0]
        for _, step in update.steps():
            arrived = step.fresh or step.mixed
            if event.site is None or not step.parameters or step.written or step.reused:
                continue
            if bool(arrived) == (loss.cut == "zero") and self._is_habit(event, step, update):
                yield self._finding(event, loss, step, update.number)

    def _is_habit(self, event: Event, step: StepReading, update: Update) -> bool:
        key = (step.number, event.site.number if event.site else -1)
        return self._habit.is_one(key, update.signature, update.seen, step.steps)

    def _finding(self, event: Event, loss: LossReading, step: StepReading, number: int) -> Finding:
        assert event.site is not None
        what, remedy = _in_words(loss, step)
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            seen=what,
            why="no exception is raised, and none of these parameters learns anything from the loss",
            remedy=remedy,
            evidence={
                "cut": loss.cut,
                "zero_derivatives": list(loss.zeroes),
                "optimizer": step.optimizer,
                "parameters": step.parameters,
                "backward_frames": [str(place) for place in event.site.chain],
                "framework": str(event.site.framework) if event.site.framework else None,
            },
            step=number,
        )


def _in_words(loss: LossReading, step: StepReading) -> tuple[str, str]:
    """What was seen, and what to try."""
    whose = f"{step.parameters} parameters of {step.optimizer}"
    if loss.cut == "leaf":
        return (
            f"backward was called on a loss that has no graph: a new tensor with requires_grad=True, not connected "
            f"to any of the {whose}, none of which had a gradient at the step",
            "call backward() on the loss that the criterion returned, not on a tensor made of its value",
        )
    if loss.cut == "apart":
        return (
            f"backward was called on a loss whose graph ends before any of the {whose}: it was cut on the way, and "
            "none of them had a gradient at the step",
            "look between the model's output and the loss for .item(), .numpy(), .detach(), torch.tensor(...), "
            "argmax or no_grad()",
        )
    reached = sum(reach.reached for reach in loss.reaches)
    names = ", ".join(name.lower() for name in loss.zeroes)
    return (
        f"each path from the loss to the {reached} parameters it reaches passes an operation whose derivative is 0 "
        f"everywhere ({names}): the gradients of the {whose} are all 0",
        f"leave {names} out of the loss, or make it straight-through: x + (x.{names.split(', ')[0]}() - x).detach()",
    )
