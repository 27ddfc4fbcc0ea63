"""A freeze that never happened: the flag was set on a module, or under a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from loopkit import Confidence, Event, Finding, Kind, Ledger, Models, Run, Severity, Update, hookimpl

_FLAG = "requires_grad"
_ALIKE = 0.85


class TrainableSetSuspicious:
    """Python took an attribute that torch does not know, and the wrong parameters are trained.

    What it looks for
        `requires_grad` set on a module, where it is an attribute like any other, against what all parameters of that
        module say; or a parameter with an attribute that is a misspelt `requires_grad`, such as `require_grad`, and
        that says the opposite of the real one. Only where an optimizer owns these parameters.

    Why that hurts
        Neither raises an error nor does anything: what should be frozen is trained, what should be trained is not.

    A loop that has it
        model.backbone.requires_grad = False
        for p in model.encoder.parameters():
            p.require_grad = False

    The repair
        `module.requires_grad_(False)` for a module, `parameter.requires_grad = False` for a parameter.

    Left alone
        A module that keeps a setting of that name to which its parameters agree, in part at least; adapters, linear
        probes, norm-only and bias-only tuning; whatever no optimizer owns.

    What it costs
        A look at the attributes of each module and parameter, in the 1st, 2nd, 4th, 8th … update of a shape.
    """

    rule = "trainable-set-suspicious"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Look at the modules that are alive."""
        event = next((each for each in update.events if each.kind is Kind.BACKWARD and each.site), None)
        if event is None:
            return
        owned = {id(each): each for owner in run.instrument(Ledger).owners() for each in owner.parameters()}
        for name, value, attribute, count in _contradictions(run.instrument(Models), owned):
            yield self._finding(event, name, value, attribute, count, update.number)

    def _finding(self, event: Event, name: str, value: bool, attribute: str, count: int, number: int) -> Finding:
        assert event.site is not None
        on_module = attribute == _FLAG
        real = "trained all the same" if not value else "frozen all the same"
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=event.site.place,
            places={"backward": event.site.place},
            subject=name,
            seen=f"{name}.{attribute} = {value} was set on {'a module' if on_module else 'parameters'}, where it "
            f"does nothing: {count} parameters of {name} that an optimizer owns are {real}",
            why="torch does not know this attribute; the parameters keep the requires_grad they had",
            remedy=f"call requires_grad_({value}) on {name}"
            + ("" if on_module else f", or spell it requires_grad instead of {attribute}"),
            evidence={"module": name, "attribute": attribute, "value": value, "parameters": count},
            step=number,
        )


def _contradictions(models: Models, owned: dict[int, Any]) -> Iterator[tuple[str, bool, str, int]]:
    """Modules whose parameters contradict a flag without effect: name, the flag's value and name, how many."""
    inside: set[int] = set()
    misspelt = {key: found for key, each in owned.items() if vars(each) and (found := _misspelt(each))}
    for spot in models.modules():
        value = vars(spot.module).get(_FLAG)
        if not misspelt and not isinstance(value, bool):
            continue  # almost every module: its parameters need not be gathered
        parameters = [each for each in spot.module.parameters() if id(each) in owned]
        against = parameters and all(each.requires_grad is not value for each in parameters)
        if isinstance(value, bool) and against and not _is_setting(type(spot.module)):
            yield spot.name, value, _FLAG, len(parameters)
        if id(spot.module) in inside:
            continue
        odd = [misspelt[id(each)] for each in parameters if id(each) in misspelt]
        if odd and len(odd) == len(parameters):
            inside |= {id(each) for each in spot.module.modules()}
            yield spot.name, odd[0][1], odd[0][0], len(odd)


def _is_setting(cls: type[Any]) -> bool:
    """Whether a module's class sets `requires_grad` itself when one is made: then it is a setting of its own."""
    own = [each for each in cls.__mro__ if not each.__module__.startswith("torch.")]
    codes = [getattr(vars(each).get("__init__"), "__code__", None) for each in own]
    return any(code is not None and _FLAG in code.co_names for code in codes)


def _misspelt(parameter: Any) -> tuple[str, bool] | None:
    """An attribute that is almost `requires_grad` and says the opposite of it."""
    for name, value in vars(parameter).items():
        close = difflib.SequenceMatcher(None, name.lower(), _FLAG).ratio() > _ALIKE
        if close and not name.startswith("_") and value is (not parameter.requires_grad):
            return name, value
    return None
