"""Every backward makes gradients for a model that no optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Severity, Stray, Update, hookimpl

_UPDATES = 16
_WALKS = 3


class GradsIntoUnoptimizedParams:
    """A model that nobody trains is neither frozen nor detached, so each backward computes gradients for it.

    What it looks for
        A whole model (a teacher, a target or reference network, a criterion with parameters) that the loss reaches,
        whose parameters no optimizer owns or has owned, and which has kept its values for 16 updates and more.

    Why that hurts
        Its gradients cost time and memory and add up unused. Where its output is a target, the trained model is also
        judged by how it moves that target: the objective is another one. And a criterion with parameters of its own
        stays as it was made.

    A loop that has it
        optimizer = Adam(student.parameters())
        for x, _ in loader:
            loss = mse_loss(student(x), teacher(x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    The repair
        Call the model under `torch.no_grad()`, detach its output, or freeze it with `requires_grad_(False)` where
        gradients must pass through it. If it should be trained, give its parameters to the optimizer.

    Left alone
        Parameters of the other player's optimizer; those of an optimizer that has died (meta-learning); a model of
        which a part is owned (gradual unfreezing); models updated by hand or by copying; runs in which no optimizer
        owns any model, only inputs (style transfer, inversion: reported as info).

    What it costs
        As `unregistered-params`: nothing while all that the loss reaches is owned.
    """

    rule = "grads-into-unoptimized-params"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge what each walked loss reached."""
        for event, loss in update.losses():
            for stray in loss.strays:
                unmoved = stray.updates >= _UPDATES and stray.walks >= _WALKS
                if unmoved and stray.alone and event.site is not None:
                    yield self._finding(event, stray, update.number)

    def _finding(self, event: Event, stray: Stray, number: int) -> Finding:
        assert event.site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity if stray.beside else Severity.INFO,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            subject=stray.name,
            seen=f"backward made gradients for {stray.parameters} parameters ({stray.elements:,} numbers) of "
            f"{stray.name} that no optimizer owns; they kept their values for {stray.updates} updates",
            why="they cost time and memory for nothing, and change the objective where the output is a target",
            remedy=f"call {stray.root} under torch.no_grad(), detach its output or freeze it with "
            "requires_grad_(False); if it should be trained, give its parameters to the optimizer",
            evidence={
                "module": stray.name,
                "first": stray.first,
                "parameters": stray.parameters,
                "elements": stray.elements,
                "updates": stray.updates,
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
