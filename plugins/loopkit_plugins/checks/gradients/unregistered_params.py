"""Layers in a plain list, tuple or dict take part in the forward pass and are never trained."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Event, Finding, Severity, Site, Stray, Update, hookimpl

_SURE = 16  # updates: what an optimizer gets later, or a hand moves now and then, is not forgotten


class UnregisteredParams:
    """Layers kept in a plain list, tuple, dict or object are used by the model and known to nobody else.

    What it looks for
        Parameters that the loss reaches, that no optimizer owns or has owned, and that lie in a plain container or
        object of a model whose other parameters an optimizer does own. They have kept their values over an update or
        more.

    Why that hurts
        A module registers only modules and parameters that are its attributes. What lies in a list is not in
        `parameters()`: it is not trained, not moved by `.to(device)`, not saved in `state_dict()`.

    A loop that has it
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = [nn.Linear(8, 8) for _ in range(4)]
                self.head = nn.Linear(8, 2)

    The repair
        Keep them in an `nn.ModuleList` or `nn.ModuleDict`, and bare parameters in an `nn.ParameterList` or
        `nn.ParameterDict`. A class that holds layers must derive from `nn.Module`.

    Left alone
        Layers in a list that are registered somewhere too, or that were given to an optimizer by hand; a teacher
        hidden in a list on purpose, which runs without gradients or in evaluation mode; parameters that are updated
        by hand; latents and learned loss weights outside a model.

    What it costs
        Nothing while all that the loss reaches is owned. Else names are made in those updates whose graph is
        walked, and eight numbers are read from the device.
    """

    rule = "unregistered-params"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._suspects: dict[Site, dict[str, Finding]] = {}

    @hookimpl
    def update_finished(self, update: Update) -> Iterator[Finding]:
        """Note what each walked loss reaches, and report what stays as it is."""
        for event, loss in update.losses():
            if not loss.walked or event.site is None:
                continue
            # What is no stray any more has got an optimizer, or was updated by hand.
            still = self._suspects[event.site] = {}
            for stray in loss.strays:
                if stray.loose and stray.training and not stray.alone and stray.updates:
                    still[stray.name] = self._finding(event, stray, update.number)
                    if stray.updates >= _SURE:
                        yield still[stray.name]

    @hookimpl
    def run_finished(self) -> Iterator[Finding]:
        """In a short run what was never seen to change is reported at its end."""
        for found in self._suspects.values():
            yield from found.values()

    def _finding(self, event: Event, stray: Stray, number: int) -> Finding:
        assert event.site is not None
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            subject=stray.name,
            seen=f"the loss reaches {stray.parameters} parameters ({stray.elements:,} numbers) in {stray.name}, "
            f"which is no module: {stray.root} does not register them, no optimizer owns them (first: {stray.first})",
            why="they are not in parameters(): they stay as they were made, are not moved and not saved",
            remedy="keep them in nn.ModuleList or nn.ModuleDict (bare parameters: nn.ParameterList); a class "
            "that holds layers must derive from nn.Module",
            evidence={
                "container": stray.name,
                "first": stray.first,
                "module": stray.root,
                "parameters": stray.parameters,
                "elements": stray.elements,
                "backward_frames": [str(place) for place in event.site.chain],
            },
            step=number,
        )
