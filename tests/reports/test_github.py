"""GitHub's workflow commands, read back as its runner reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loopkit
from loopkit import Place, Report, Severity
from loopkit_plugins.sinks.github import GitHub, command
from tests.loops import textbook
from tests.reports import made
from tests.reports.made import finding, report


def parsed(line: str) -> tuple[str, dict[str, str], str]:
    """A command as the runner takes it apart: `::name key=value,…::message`, and its tables of escapes backwards."""
    assert line.startswith("::")
    head, _, message = line[2:].partition("::")
    name, _, rest = head.partition(" ")
    pairs = dict(pair.split("=", 1) for pair in rest.split(",") if pair)
    data = {"%0D": "\r", "%0A": "\n"}
    return name, {key: _unescaped(text, data | {"%3A": ":", "%2C": ","}) for key, text in pairs.items()}, _unescaped(
        message, data
    )  # fmt: skip


def _unescaped(text: str, table: dict[str, str]) -> str:
    for escaped, character in table.items():
        text = text.replace(escaped, character)
    return text.replace("%25", "%")  # the runner's last


@given(st.text(st.characters(codec="utf-8")), st.dictionaries(st.sampled_from(["file", "title"]), made.texts))
def test_any_text_comes_through(message: str, properties: dict[str, str]) -> None:
    line = command("error", message, **properties)
    assert "\n" not in line
    assert "\r" not in line
    assert parsed(line) == ("error", properties, message)


@given(made.reports)
def test_any_report_is_one_line_a_finding(told: Report) -> None:
    lines = GitHub().text(told).split("\n") if told.findings or told.failures else []
    assert len(lines) == len(told.findings) + len(told.failures)
    for line, found in zip(lines, told.findings, strict=False):
        name, properties, message = parsed(line)
        assert name == {"error": "error", "warning": "warning", "info": "notice"}[found.severity]
        assert found.seen in message
        assert found.rule in properties["title"]


def test_a_finding_stands_at_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    name, properties, message = parsed(GitHub().text(report(finding(seen="50% of it\nand more"))))
    assert (name, properties["file"], properties["line"]) == ("error", "src/train.py", "8")
    assert properties["title"] == "missing-zero-grad (proof, step 2)"
    assert message == "50% of it\nand more\nwhy: why\ntry: try"


def test_the_runners_workspace_is_what_paths_are_relative_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", f"{made.ROOT}/src")
    assert parsed(GitHub().text(report(finding())))[1]["file"] == "train.py"


def test_a_file_outside_is_named_in_the_message() -> None:
    _, properties, message = parsed(GitHub().text(report(finding(place=Place("/opt/lib.py", 3)))))
    assert "file" not in properties
    assert message.startswith("/opt/lib.py:3: seen")


def test_findings_are_printed_as_they_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    class Mine:
        @loopkit.hookimpl
        def after_step(self) -> loopkit.Finding:
            return finding(severity=Severity.WARNING)

    with loopkit.watch(autoload=False, plugins=[Mine, GitHub()]):
        textbook(1)
        first = capsys.readouterr().err
        textbook(1)
    assert parsed(first.strip())[0] == "warning"
    assert capsys.readouterr().err == ""  # each once
