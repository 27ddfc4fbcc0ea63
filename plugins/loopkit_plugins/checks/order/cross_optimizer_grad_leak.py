"""One optimizer steps on gradients of a loss that was meant for another's parameters."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Leak, Severity, StepReading, Update, hookimpl


class CrossOptimizerGradLeak:
    """A step uses, beside its own gradients, leftovers of a loss that another optimizer has already stepped on.

    What it looks for
        With two or more optimizers: a step that finds in the same `.grad` gradients of a backward that an earlier
        step of another optimizer had used, and of a later backward, from another place, that nobody had used yet.

    Why that hurts
        The second player follows the sum of both losses. A generator then helps the critic, an actor minimises the
        critic's error: the game is not the one that was meant, and the losses do not show it.

    A loop that has it
        fake = generator(noise)
        (critic(fake).mean() - critic(real).mean()).backward()
        for_critic.step()
        (-critic(fake).mean()).backward()
        for_generator.step()

    The repair
        Detach what comes from the other player (`critic(fake.detach())`), or call `zero_grad()` of the second
        optimizer right before its own backward.

    Left alone
        One backward followed by the steps of several optimizers; leftovers that are cleared before they are used
        (DCGAN, SAC, TD3); losses from one place of which one optimizer uses several and another each; gradients
        set by hand; steps with a closure or inside backward.

    What it costs
        Nothing beyond the ledger.
    """

    rule = "cross-optimizer-grad-leak"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Judge each step of the update by whose gradients it used."""
        for event, step in update.steps():
            if step.closure or step.inside_backward or step.wraps_a_step:
                continue
            if step.leak is not None and event.site is not None:
                yield self._finding(event, step, step.leak, update.number)

    def _finding(self, event: Event, step: StepReading, leak: Leak, number: int) -> Finding:
        assert event.site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=leak.backward.place,
            places={
                "backward that leaked": leak.backward.place,
                "step it was for": leak.step.place,
                "own backward": leak.own.place,
                "step": event.site.place,
            },
            subject=step.optimizer,
            seen=f"{step.leaked} of {step.parameters} parameters of {step.optimizer} still held gradients of this "
            f"backward, which {leak.optimizer} had used at {leak.step.place}, when the backward at {leak.own.place} "
            f"added to them and {step.optimizer} stepped at {event.site.place}",
            why=f"{step.optimizer} follows the sum of both losses",
            remedy=f"detach() what this loss should not train, or call zero_grad() of {step.optimizer} right before "
            f"its backward at {leak.own.place}",
            evidence={
                "optimizer": step.optimizer,
                "other": leak.optimizer,
                "parameters": step.parameters,
                "leaked": step.leaked,
                "backward_frames": [str(place) for place in leak.backward.chain],
                "own_backward_frames": [str(place) for place in leak.own.chain],
                "step_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
