"""A part of the trained model was never given to any optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Ledger, Run, Severity, Site, Stray, Update, hookimpl

_SURE = 1024  # updates: a group may be added late
_SURE_EMPTY = 16


class ParamsNotInOptimizer:
    """The loss reaches trainable parameters of a model that is trained, and no optimizer holds them.

    What it looks for
        Parameters with `requires_grad` that the loss reaches and that no optimizer of the run has owned, in a module
        in training mode of which an optimizer owns other parameters; or anywhere, if an optimizer was constructed
        with a parameter group that is empty, as one made from a used-up generator is. They have kept their values.

    Why that hurts
        They stay as they were initialized, though every backward makes gradients for them: a layer that is added,
        unfrozen or passed too late, or forgotten, is random for ever.

    A loop that has it
        model.backbone.requires_grad_(False)
        optimizer = Adam(p for p in model.parameters() if p.requires_grad)
        train_one_epoch(model, optimizer)
        model.backbone.requires_grad_(True)
        train_one_epoch(model, optimizer)

    The repair
        Pass all that should be trained (`model.parameters()`; a generator can be read only once), call
        `optimizer.add_param_group` for what comes later, and freeze the rest with `requires_grad_(False)`.

    Left alone
        Several optimizers that own the model together; groups added later (gradual unfreezing); parameters of an
        optimizer that has died (meta-learning); frozen parts and LoRA; teachers and other models of which nothing is
        owned (`grads-into-unoptimized-params`); what was replaced after it was passed (`stale-params-in-optimizer`)
        or lies in a plain list (`unregistered-params`); parameters updated by hand or by copying. Normalization
        layers alone, as some fine-tuning helpers leave them out, are info.

    What it costs
        As `unregistered-params`: nothing while all that the loss reaches is owned.
    """

    rule = "params-not-in-optimizer"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._suspects: dict[Site, dict[str, tuple[Stray, Finding]]] = {}

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Note what each walked loss reaches; report what has stayed as it is for very long."""
        for event, loss in update.losses():
            if not loss.walked or event.site is None:
                continue
            still = self._suspects[event.site] = {}
            for stray in loss.strays:
                if stray.loose or stray.alone or stray.replaced or not stray.training or not stray.updates:
                    continue
                found = self._finding(event, stray, update.number)
                still[stray.name] = stray, found
                if stray.updates >= (_SURE_EMPTY if stray.empty else _SURE):
                    yield found

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Report what no optimizer has come to own since."""
        ledger = run.instrument(Ledger)
        owned = ledger.once_owned.union(*(owner.ids for owner in ledger.owners()))
        for suspects in self._suspects.values():
            for stray, found in suspects.values():
                if owned.isdisjoint(stray.ids):
                    yield found

    def _finding(self, event: Event, stray: Stray, number: int) -> Finding:
        assert event.site is not None
        places = {"backward": event.site.place}
        if stray.made is not None:
            places["optimizer constructed"] = stray.made.place
        empty = f"; a parameter group of {stray.optimizer} is empty" if stray.empty else ""
        return Finding(
            rule=self.rule,
            severity=Severity.INFO if stray.norms and not stray.empty else self.severity,
            confidence=self.confidence,
            place=places.get("optimizer constructed", event.site.place),
            places=places,
            subject=stray.name,
            seen=f"the loss reaches {stray.parameters} trainable parameters ({stray.elements:,} numbers) of "
            f"{stray.name} that are not in any optimizer (first: {stray.first}); they kept their values for "
            f"{stray.updates} updates{empty}",
            why="they get gradients and are never updated: what they compute stays as it was initialized",
            remedy=f"pass them to {stray.optimizer}"
            + (" (a generator can be read only once: pass list(...))" if stray.empty else "")
            + ", add them with add_param_group, or freeze them with requires_grad_(False)",
            evidence={
                "module": stray.name,
                "first": stray.first,
                "parameters": stray.parameters,
                "elements": stray.elements,
                "updates": stray.updates,
                "optimizer": stray.optimizer,
                "empty_group": stray.empty,
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
