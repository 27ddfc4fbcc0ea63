"""Plugins by strangers: installed, or beside the script; the list of them; and what may be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loopkit
from loopkit import API_VERSION, Confidence, Finding, Place, Report, Severity, hookimpl
from loopkit.cli import main
from loopkit.manager import Manager, installed
from loopkit.plugin import guard
from loopkit.rulebook import rules
from tests.cli.command import BUG, LOOP
from tests.cli.command import loopkit as command
from tests.loops import textbook

CHECK = '''
from loopkit import Confidence, Finding, Severity, hookimpl


class HouseRule:
    """A step of more than no learning rate is against the rules of this house."""

    rule = "house-rule"
    severity = Severity.INFO
    confidence = Confidence.FACT

    @hookimpl
    def update_finished(self, update):
        for event, step in update.steps():
            place = event.site.place
            yield Finding(self.rule, self.severity, self.confidence, "a step", "it is a rule", "do not", place)
'''

Stranger = Callable[..., Path]


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a distribution of somebody else's: `stranger("dist", "1.0", {"name": "module:Class"}, source)`."""

    def install(distribution: str, version: str, entries: dict[str, str], source: str = CHECK) -> Path:
        site = tmp_path / "site"
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {target}" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[loopkit]", *lines]) + "\n")
        for target in entries.values():
            (site / f"{target.partition(':')[0]}.py").write_text(source)
        monkeypatch.syspath_prepend(str(site))
        rules.cache_clear()
        return site

    yield install
    monkeypatch.undo()
    rules.cache_clear()


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert main(["plugins", "--format", "json"]) == 0
    return {each["name"]: each for each in json.loads(capsys.readouterr().out)}


# -- the list --------------------------------------------------------------------------------------------


def test_the_list_names_everything_of_a_plugin(stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    stranger("house-rules", "2.1", {"house-rule": "house_check_a:HouseRule"})
    rows = listed(capsys)
    assert rows["house-rule"] == {
        "name": "house-rule", "state": "on", "distribution": "house-rules", "version": "2.1", "family": "house-rule",
        "target": "house_check_a:HouseRule", "hooks": ["update_finished"], "why": "",
    }  # fmt: skip
    ours = rows["missing-zero-grad"]
    assert (ours["state"], ours["distribution"], ours["family"]) == ("on", "torch-loopkit", "order")
    assert ours["hooks"] == ["update_finished"]
    assert rows["future-leak"]["state"] == "--probe"
    assert all(row["hooks"] for row in rows.values() if row["family"] != "formats")
    assert (rows["sarif"]["family"], rows["sarif"]["state"]) == ("formats", "on")
    assert main(["plugins"]) == 0
    assert "house-rules 2.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = 1", "has no 'Plugin'"),
        ("class Plugin: pass", "it has no method marked @loopkit.hookimpl"),
        (
            "from loopkit import hookimpl\nclass Plugin:\n    @hookimpl\n    def after_step(self, optimiser): pass",
            "after_step has no argument 'optimiser'; did you mean 'optimizer'? it has: run, optimizer",
        ),
        (
            "from loopkit import hookimpl\nclass Plugin:\n    api_version = 99\n    def __init__(self): 1 / 0",
            f"it is made for version 99 of the plugin API, and this loopkit has version {API_VERSION}: upgrade",
        ),
    ],
)
def test_the_list_says_why_one_cannot_be_loaded(
    stranger: Stranger, capsys: pytest.CaptureFixture[str], source: str, why: str
) -> None:
    module = f"broken_{abs(hash(why))}"
    stranger("broken-things", "0.1", {"broken": f"{module}:Plugin"}, source)
    row = listed(capsys)["broken"]
    assert row["state"] == "cannot be loaded"
    assert why in row["why"]
    with loopkit.watch(skip=["console"]) as run:  # a run names it too, and goes on
        textbook(1)
    assert [(each.plugin, why in each.error) for each in run.failures] == [("broken", True)]
    assert main(["plugins"]) == 0
    assert why in capsys.readouterr().out


def test_strangers_can_be_left_out_by_the_environment(
    stranger: Stranger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger("house-rules", "2.1", {"house-rule": "house_check_b:HouseRule"})
    assert "house-rule" in {offer.name for offer in installed()}
    monkeypatch.setenv("LOOPKIT_DISABLE_PLUGIN_AUTOLOAD", "1")
    rules.cache_clear()
    names = {offer.name for offer in installed()}
    assert "house-rule" not in names
    assert {"missing-zero-grad", "console"} <= names
    assert "house-rule" not in rules()
    row = listed(capsys)["house-rule"]
    assert (row["state"], row["why"]) == ("off", "LOOPKIT_DISABLE_PLUGIN_AUTOLOAD")
    with loopkit.watch(skip=["console"]) as run:
        textbook(1)
    assert run.findings == []


# -- two of one name -------------------------------------------------------------------------------------


def test_two_plugins_of_one_name(stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    stranger("a-house", "1.0", {"house-rule": "house_check_c:HouseRule"})
    stranger("b-house", "2.0", {"house-rule": "house_check_d:HouseRule"})
    assert main(["plugins"]) == 0
    printed = capsys.readouterr().out
    assert "two plugins are called 'house-rule': house_check_c:HouseRule of a-house 1.0, which is used" in printed
    assert "house_check_d:HouseRule of b-house 2.0, which is not" in printed
    with loopkit.watch(skip=["console"]) as run:
        textbook(1)
    assert [each.rule for each in run.findings] == ["house-rule"]
    assert [each.plugin for each in run.failures] == ["house-rule (b-house 2.0)"]


def test_a_strangers_plugin_does_not_take_the_place_of_ours(stranger: Stranger) -> None:
    stranger("a-house", "1.0", {"missing-zero-grad": "house_check_e:HouseRule"})
    (offer,) = [offer for offer in installed() if offer.name == "missing-zero-grad"]
    assert offer.ours


def test_one_that_is_installed_and_named_once_more_is_there_once(stranger: Stranger) -> None:
    stranger("a-house", "1.0", {"mine": "house_check_g:HouseRule"})
    with loopkit.watch(skip=["console"]) as run:
        run.manager.load("house_check_g:HouseRule")
        assert [name for name, _ in run.manager.plugins() if "house" in name or name == "mine"] == ["mine"]


def test_two_checks_of_one_rule(stranger: Stranger) -> None:
    stranger(
        "a-house", "1.0", {"other": "house_check_f:HouseRule"}, CHECK.replace('"house-rule"', '"missing-zero-grad"')
    )
    with loopkit.watch(skip=["console"]) as run:
        textbook(1)
    (failure,) = run.failures
    assert failure.plugin == "other"
    assert "it reports 'missing-zero-grad', which is a rule of missing-zero-grad" in failure.error


# -- what it answers -------------------------------------------------------------------------------------


def _finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "rule": "x", "severity": Severity.INFO, "confidence": Confidence.FACT, "seen": "", "why": "", "remedy": "",
    }  # fmt: skip
    return Finding(**(values | changes))


NONSENSE: list[tuple[Any, str]] = [
    (5, "a hook answers with Findings or None, not with int"),
    ("found it", "not with str"),
    ([None], "not with NoneType"),
    (_finding(severity="fatal"), "severity of a Finding of 'x' is str, and should be Severity"),
    (_finding(rule=7), "rule of a Finding of 7 is int"),
    (_finding(rule=""), "empty rule"),
    (_finding(place="train.py:3"), "place of a Finding of 'x' is str, and should be Place or None"),
    (_finding(place=Place("a.py", "3")), "places"),  # type: ignore[arg-type]
    (_finding(places={"there": 3}), "places of a Finding of 'x' is int"),
    (_finding(seen=None), "seen of a Finding of 'x' is NoneType"),
    (_finding(evidence={1: 2}), "a name in evidence"),
    (_finding(count=0.5), "count"),
]


@pytest.mark.parametrize(("answer", "why"), NONSENSE)
@pytest.mark.parametrize("reports", [False, True])
def test_a_check_that_answers_nonsense_is_named(
    answer: Any, why: str, reports: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    class Odd:
        @hookimpl
        def after_step(self, run: Any) -> Any:
            return run.report(answer[0] if isinstance(answer, list) else answer) if reports else answer

    with loopkit.watch(plugins=[Odd]) as run:
        textbook(2)
    (failure,) = run.failures
    assert (failure.plugin, failure.when) == ("odd", "after_step")
    assert why in failure.error
    assert run.findings == []
    assert "was switched off" in capsys.readouterr().err


def test_an_api_version_that_is_no_number() -> None:
    class Odd:
        api_version = "1.0"

        @hookimpl
        def run_started(self) -> None: ...

    manager = Manager()
    assert not manager.add(Odd)
    assert "its api_version is '1.0'" in manager.failures[0].error
    Odd.api_version = API_VERSION  # type: ignore[assignment]
    assert manager.add(Odd)


def test_evidence_that_json_cannot_hold_is_in_the_report_all_the_same(tmp_path: Path) -> None:
    from loopkit_plugins.sinks.json import Json

    class Odd:
        @hookimpl
        def after_step(self) -> Finding:
            return _finding(evidence={"model": object, "sizes": {(1, 2): {3}}, "pair": (1, 2)})

    with loopkit.watch(autoload=False, plugins=[Odd, Json(tmp_path / "out.json")]) as run:
        textbook(1)
    assert run.failures == []
    (found,) = json.loads((tmp_path / "out.json").read_text())["findings"]
    assert found["evidence"] == {"model": "<class 'object'>", "sizes": {"(1, 2)": "{3}"}, "pair": [1, 2]}


# -- how long it takes -----------------------------------------------------------------------------------


def test_a_slow_check_is_named_with_its_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0]
    monkeypatch.setattr(guard, "clock", lambda: now[0])

    class SlowCheck:
        @hookimpl
        def after_step(self) -> None:
            now[0] += 5_000_000_000_000

    class QuickCheck:
        @hookimpl
        def after_step(self) -> None:
            now[0] += 1_000

    with loopkit.watch(plugins=[SlowCheck, QuickCheck]) as run:
        textbook(2)
    (slow,) = run.slow_plugins()
    assert (slow.plugin, slow.seconds) == ("slow-check", 10_000.0)
    assert 0 < slow.of_overhead <= 1
    assert Report.of(run, finished=True).to_dict()["slow_plugins"][0]["plugin"] == "slow-check"
    err = capsys.readouterr().err
    assert "slow         slow-check took 10000.0 s: 100% of the run, " in err
    assert "quick-check" not in err


def test_hooks_that_are_called_seldom_are_hooks() -> None:
    from loopkit import hookspecs

    assert all(hasattr(getattr(hookspecs, hook), "loopkit_spec") for hook in guard._SELDOM)


def test_our_own_plugins_are_not_timed_in_an_ordinary_update_nor_at_the_end() -> None:
    from loopkit import hookspecs

    manager = Manager()
    manager.load_installed()
    hot = {name for name, value in vars(hookspecs).items() if hasattr(value, "loopkit_spec")} - guard._SELDOM
    assert {"after_step", "batch_loaded", "before_forward", "metric_logged", "run_finished"} <= hot
    for _, plugin in manager.plugins():
        guarded = guard.Guard(plugin, manager)
        for hook in hot & set(dir(guarded)):
            assert getattr(guarded, hook).__code__.co_name == "guarded", f"{plugin} is timed in {hook}"


# -- beside the script -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "loopkit_plugins.py").write_text(CHECK)
    (tmp_path / "bad.py").write_text(BUG)
    return tmp_path


def test_plugins_beside_the_script_are_loaded_and_hide_none_of_ours(project: Path) -> None:
    done = command("run", "bad.py", cwd=project)
    assert done.code == 1
    assert "bad.py:9  info  house-rule  (fact, step 1)" in done.err
    assert "bad.py:8  error  missing-zero-grad" in done.err
    assert "failed" not in done.err
    assert "house-rule" in command("run", "-m", "bad", cwd=project).err
    (project.parent / "elsewhere").mkdir(exist_ok=True)
    assert "house-rule" in command("run", str(project / "bad.py"), cwd=project.parent / "elsewhere").err


def test_their_pages_are_read_without_importing_them(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "loopkit_plugins.py").write_text(CHECK + "\n1 / 0\n")
    monkeypatch.chdir(project)
    rules.cache_clear()
    assert main(["explain", "house-rule"]) == 0
    assert "A step of more than no learning rate" in capsys.readouterr().out
    assert rules()["house-rule"].family == "loopkit_plugins.py"
    monkeypatch.undo()
    rules.cache_clear()


@pytest.mark.parametrize("options", [["--isolated"], ["--no-plugin", "loopkit_plugins.py"]])
def test_they_can_be_left_out(project: Path, options: list[str]) -> None:
    done = command("run", *options, "bad.py", cwd=project)
    assert done.code == 1
    assert "house-rule" not in done.err


def test_their_rules_can_be_named(project: Path) -> None:
    done = command("run", "--select", "house-rule", "bad.py", cwd=project, LOOPKIT_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.code == 0
    assert "house-rule" in done.err
    assert "missing-zero-grad  (not selected)" in done.err


def test_one_that_fails_is_named_and_the_rest_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "loopkit_plugins.py").write_text("raise RuntimeError('no luck')")
    done = command("run", "bad.py", cwd=project)
    assert done.code == 2
    assert "plugin       loopkit_plugins.py failed (import): RuntimeError: no luck" in done.err
    assert "missing-zero-grad" in done.err
    done = command("plugins", cwd=project)
    assert done.code == 0
    assert "RuntimeError: no luck" in done.out
    assert "missing-zero-grad" in done.out


def test_a_script_that_imports_the_file_itself_keeps_it_and_ours_are_found(project: Path) -> None:
    text = (
        "import loopkit_plugins\nimport loopkit\nwith loopkit.watch():\n"
        + "".join(f"    {line}\n" for line in BUG.strip().splitlines())
        + "print(loopkit_plugins.HouseRule.rule)\nimport loopkit_plugins.sinks\n"
    )
    (project / "own.py").write_text(text)
    from tests.cli.command import python

    done = python("own.py", cwd=project)
    assert (done.code, done.out) == (0, "house-rule\n"), done.err
    assert "missing-zero-grad" in done.err


def test_they_look_into_child_processes(project: Path) -> None:
    body = "".join(f"    {line}\n" for line in LOOP.strip().splitlines())
    text = (
        f"import multiprocessing\ndef train():\n{body}\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=train)\n"
        "    child.start()\n    child.join()\n"
    )
    (project / "parent.py").write_text(text)
    done = command("run", "parent.py", cwd=project)
    assert "parent.py:11  info  house-rule" in done.err, done.err
    assert "cannot be made anew" not in done.err


def test_a_plugin_is_named_by_its_file(project: Path) -> None:
    (project / "loopkit_plugins.py").rename(project / "checks.py")
    done = command("run", "--plugin", "checks.py:HouseRule", "bad.py", cwd=project)
    assert "house-rule" in done.err
    done = command("run", "--plugin", "checks.py:HouseRul", "bad.py", cwd=project)
    assert (done.code, "did you mean 'HouseRule'" in done.err) == (2, True)
    done = command("run", "--plugin", "nowhere.py:HouseRule", "bad.py", cwd=project)
    assert (done.code, "there is no such file" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ("", ["HouseRule"]),
        ("class _Hidden(HouseRule): pass\nclass Plain: pass\n", ["HouseRule"]),
        ("class Other(HouseRule): pass\nPLUGINS = (Other,)\n", ["Other"]),
    ],
)
def test_which_classes_of_a_file_are_plugins(tmp_path: Path, more: str, names: list[str]) -> None:
    from loopkit.plugin import beside

    (tmp_path / "loopkit_plugins.py").write_text(CHECK + more)
    target = beside.in_folder(tmp_path)
    assert target is not None
    assert [each.rpartition(":")[2] for each in beside.fetch(target)] == names


# -- the trace -------------------------------------------------------------------------------------------


def test_a_trace_prints_each_call_with_arguments_and_answers(project: Path) -> None:
    done = command("run", "--trace-plugins", "--select", "house-rule", "bad.py", cwd=project)
    lines = done.err.splitlines()
    assert "loopkit: generator_seeded(seed=0, site=<Site>)  rng-reset-in-loop → nothing" in lines
    (first, *_) = [line for line in lines if line.startswith("loopkit: update_finished(update=<Update>)")]
    assert "house-rule → house-rule at bad.py:9; " in first
    assert first.endswith(" other plugins → nothing")
    assert "loopkit: finding_reported(finding=house-rule at bad.py:9)  console → nothing" in lines


def test_a_trace_runs_nothing_of_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from loopkit.plugin.trace import shown

    class Proud:
        def __repr__(self) -> str:
            raise AssertionError("this is the user's")

    values = {"x": torch.zeros(2, 3), "more": [Proud(), (1, "a" * 99), [[1, [2]]]], "n": None}
    assert shown(values) == "{'x': Tensor(2, 3), 'more': [<Proud>, <tuple>, <list>], 'n': None}"
    assert shown(torch.nn.Linear(1, 1)) == "<Linear>"
    assert shown(list(range(9))) == "[0, 1, 2, 3, …]"
