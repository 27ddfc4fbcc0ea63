"""Saved reports: there and back, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

import loopkit
from loopkit import Report, UsageError
from loopkit.cli import main
from loopkit.reports import saved
from loopkit.reports.report import root_of
from tests.cli.command import BUG, python
from tests.cli.command import loopkit as command
from tests.loops import textbook
from tests.reports import made
from tests.reports.made import finding, report

FIRST_FIELDS = {
    "schema", "loopkit", "finished", "steps", "processes", "overhead", "rows", "not_checked", "findings", "silenced",
    "plugin_failures",
}  # fmt: skip
"""Of schema 1 as it first was: what a report has at least."""


@given(made.reports)
def test_a_report_survives_json(told: Report) -> None:
    assert saved.from_dict(json.loads(json.dumps(told.to_dict()))) == told


@given(made.reports)
def test_a_report_of_the_first_fields_alone_is_read(told: Report) -> None:
    form = {name: value for name, value in told.to_dict().items() if name in FIRST_FIELDS}
    read = saved.from_dict(json.loads(json.dumps(form)))
    assert read.findings == told.findings
    assert {name: read.to_dict()[name] for name in FIRST_FIELDS} == form


def test_what_a_run_says_is_in_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    with loopkit.watch(skip=["console"], ignore=["future-leak", "double-softmax"]) as run:
        textbook(3)
    told = Report.of(run, finished=True)
    assert (told.steps, told.root, told.folder, told.fail_on) == (3, str(tmp_path), str(tmp_path / "deep"), "error")
    looked_for = {rule.rule for rule in told.rules}
    assert "missing-zero-grad" in looked_for
    assert "double-softmax" not in looked_for
    assert told.slow == []


def test_a_folder_in_no_repository_is_its_own_root(tmp_path: Path) -> None:
    assert root_of(str(tmp_path)) == str(tmp_path)


def test_paths_of_a_root_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    told = report(root=str(tmp_path / "link"))
    assert told.where(str(tmp_path / "real" / "a.py")) == "a.py"
    assert told.where(str(tmp_path / "other.py")) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file or directory"),
        ("", "it is no JSON"),
        ("[1]", "is no report"),
        ('{"schema": 1}', "is no report"),
        ('{"schema": "1", "findings": [], "steps": 1}', "is no report"),
        ('{"schema": 1, "findings": [{}], "steps": 1}', "is no whole report"),
        ('{"schema": 2, "loopkit": "9.0", "findings": [], "steps": 1}', "schema 2, written by loopkit 9.0"),
        (b"\xff\xfe\x00", "it is no JSON"),
    ],
)
def test_what_is_no_report_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes | None, says: str
) -> None:
    file = tmp_path / "file.json"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    assert main(["report", str(file), "--format", "sarif"]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.err.startswith("loopkit: ")
    assert told.out == ""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("ran")
    (folder / "bad.py").write_text(BUG)
    return folder, command("run", "--format", "json", "--output", "out.json", "bad.py", cwd=folder)


def test_text_from_a_saved_report_is_what_the_run_printed(ran: tuple[Path, Any]) -> None:
    folder, run = ran
    done = command("report", "out.json", cwd=folder)
    assert done.code == 0
    rounded = re.compile(r"cost  .*")  # the file has these numbers rounded
    assert rounded.sub("", done.out) == rounded.sub("", run.err)
    form = json.loads((folder / "out.json").read_text())
    assert (form["exit_code"], form["ending"], form["script"]) == (1, "complete", str(folder / "bad.py"))
    assert form["lines"] == [
        {"file": str(folder / "bad.py"), "line": 8, "text": "net(torch.ones(2, 3)).mean().backward()"}
    ]


@pytest.mark.parametrize("name", ["text", "json", "sarif", "github", "junit"])
def test_a_report_becomes_any_format(ran: tuple[Path, Any], capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder, _ = ran
    assert main(["report", str(folder / "out.json"), "--format", name]) == 0
    printed = capsys.readouterr().out
    assert "missing-zero-grad" in printed
    assert main(["report", str(folder / "out.json"), "--format", name, "--output", str(folder / f"out.{name}")]) == 0
    assert (folder / f"out.{name}").read_text() == printed
    if name == "json":
        assert json.loads(printed) == json.loads((folder / "out.json").read_text())


@pytest.mark.parametrize("name", ["text", "sarif", "junit"])
def test_converting_imports_no_torch(ran: tuple[Path, Any], name: str) -> None:
    code = (
        f"import sys\nfrom loopkit.cli import main\nassert main(['report', 'out.json', '--format', {name!r}]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert python("-c", code, cwd=ran[0]).code == 0


def test_a_run_writes_the_same_sarif_that_its_saved_report_becomes(ran: tuple[Path, Any]) -> None:
    folder, _ = ran
    done = command("run", "--format", "sarif", "--output", "run.sarif", "bad.py", cwd=folder)
    assert done.code == 1
    (run,) = json.loads((folder / "run.sarif").read_text())["runs"]
    main(["report", str(folder / "out.json"), "--format", "sarif", "--output", str(folder / "saved.sarif")])
    (other,) = json.loads((folder / "saved.sarif").read_text())["runs"]
    for each in (run, other):
        each["properties"].pop("overhead")
    assert run == other
    assert run["invocations"][0]["exitCode"] == 1


def test_an_unknown_format_and_an_unwritable_file(ran: tuple[Path, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = ran
    assert main(["report", str(folder / "out.json"), "--format", "sarf"]) == 2
    assert "did you mean 'sarif'?" in capsys.readouterr().err
    assert main(["report", str(folder / "out.json"), "--output", str(folder)]) == 2
    assert "cannot write --output" in capsys.readouterr().err


def test_a_format_that_can_only_be_written_while_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from loopkit.reports import formats

    monkeypatch.setattr(formats, "fetch", lambda name: lambda path: object())
    with pytest.raises(UsageError, match="while a run goes on"):
        formats.text(report(finding()), "odd")
