"""Promise 4: a plugin that fails is named and switched off; training and the other plugins go on."""

from __future__ import annotations

from typing import Any

import pytest

import loopkit
from loopkit import Confidence, Finding, PluginError, Severity, StopTraining, UsageError, hookimpl
from tests.loops import textbook
from tests.watched import Events


def finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "rule": "my-rule",
        "severity": Severity.WARNING,
        "confidence": Confidence.FACT,
        "seen": "seen",
        "why": "why",
        "remedy": "try",
    }
    return Finding(**(values | changes))


class Innocent:
    @hookimpl
    def after_step(self) -> Finding:
        return finding()


class Raises:
    @hookimpl
    def after_step(self) -> None:
        raise RuntimeError("broken")


class RaisesInItsGenerator:
    @hookimpl
    def after_step(self) -> Any:
        yield finding(rule="half")
        raise RuntimeError("broken")


class Nonsense:
    @hookimpl
    def after_step(self) -> Any:
        return ["not a finding"]


@pytest.mark.parametrize("bad", [Raises, RaisesInItsGenerator, Nonsense])
@pytest.mark.parametrize("first", [True, False])
def test_a_failing_plugin_blinds_nobody(bad: type, first: bool, capsys: pytest.CaptureFixture[str]) -> None:
    heard = Events()
    plugins = [bad, Innocent, heard] if first else [heard, Innocent, bad]
    with loopkit.watch(autoload=False, plugins=plugins) as run:
        textbook(3)
    assert [(each.rule, each.count) for each in run.findings] == [("my-rule", 3)]
    assert heard.seen.count("s>") == 3
    (failure,) = run.failures  # switched off after the first time
    assert failure.when == "after_step"
    assert capsys.readouterr().err.count("was switched off") == 1


def test_one_that_asks_to_stop_does_not_keep_the_event_from_the_others() -> None:
    class Stops:
        @hookimpl(tryfirst=True)
        def after_step(self) -> None:
            raise StopTraining("enough")

    heard = Events()
    with loopkit.watch(autoload=False, plugins=[heard, Stops]) as run:
        textbook(3)
    assert run.steps == 1
    assert heard.seen[-1] == "s>"
    assert run.failures == []


def test_an_event_a_plugin_causes_is_none() -> None:
    class Trains:
        @hookimpl
        def after_step(self) -> None:
            textbook(1)

    heard = Events()
    with loopkit.watch(autoload=False, plugins=[Trains, heard]) as run:
        textbook(2)
    assert run.steps == 2
    assert run.rows() == [("batch → zero_grad → forward → backward → clip → step → scheduler", 2)]
    assert run.recorder.forwards == 2
    assert heard.seen == ["D", "z", "f", "b", "c", "s<", "s>", "L"] * 2


def test_an_instrument_that_fails_ends_the_watch_and_not_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from loopkit.ledger import Ledger

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken instrument")

    monkeypatch.delenv("LOOPKIT_RAISE")
    monkeypatch.setattr(Ledger, "backward_ended", fail)
    with loopkit.watch(skip=["console"]) as run:
        textbook(3)
    assert "broken instrument" in capsys.readouterr().err
    assert any("broken instrument" in why for _, why in run.not_checked())


def test_wrong_arguments_are_refused_with_our_own_errors() -> None:
    with pytest.raises(UsageError, match="did you mean 'missing-zero-grad'"):
        loopkit.watch(ignore=["missing-zerograd"])
    with pytest.raises(UsageError, match="a list of rule names"):
        loopkit.watch(select="missing-zero-grad")
    with pytest.raises(PluginError, match="no module named"), loopkit.watch(plugins=["nowhere:Thing"]):
        pass
    assert loopkit.current_run() is None


def test_a_rule_of_a_plugin_that_is_handed_over_can_be_selected() -> None:
    class Mine(Innocent):
        rule = "my-rule"

    with loopkit.watch(autoload=False, plugins=[Mine], ignore=["my-rule"]) as run:
        textbook(1)
    assert run.findings == []
    assert [reason for _, reason in run.silenced] == ["ignored by name"]
