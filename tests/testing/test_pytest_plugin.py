"""`pytest --loopkit`: which tests are watched, what fails them, and that it goes with everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testing.suites import Done, pytest_on

TRAIN = """
import torch
from torch import nn

def train(clear, steps=4):
    net = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(steps):
        x = torch.randn(4, 4)
        if clear:
            optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), x[:, :2])
        loss.backward()
        optimizer.step()
"""
LINE = TRAIN.splitlines().index("        loss.backward()") + 1

SUITE = """
import multiprocessing
import unittest

import pytest
import torch

import loopkit as kit
from train import train

def test_right():
    train(clear=True)

def test_wrong():
    train(clear=False)

def test_trains_nothing():
    assert torch.ones(2).sum() == 2

def test_wrong_and_fails():
    train(clear=False)
    assert 1 == 2

def test_wrong_and_skips():
    train(clear=False)
    pytest.skip("not now")

@pytest.mark.xfail(strict=True)
def test_known_to_be_wrong():
    train(clear=False)

@pytest.fixture
def trained():
    train(clear=False)

def test_a_fixture_trains(trained):
    pass

class TestCases(unittest.TestCase):
    def test_of_unittest(self):
        train(clear=False)

def test_a_child_trains():
    child = multiprocessing.get_context("fork").Process(target=train, args=(False,))
    child.start()
    child.join()

# -- the fixture

def test_fixture_wrong(loopkit):
    train(clear=False)

def test_fixture_judges(loopkit):
    train(clear=False)
    finding = loopkit.assert_finds("missing-zero-grad", line_of="loss.backward()")
    assert loopkit.findings == [finding]

def test_fixture_judges_wrongly(loopkit):
    train(clear=False)
    loopkit.assert_silent()

def test_fixture_gives_the_run(loopkit):
    assert loopkit.run is None
    train(clear=True, steps=3)
    assert loopkit.run.steps == 3
    assert not loopkit.findings
    assert kit.current_run() is None

# -- the marker

@pytest.mark.loopkit(ignore=["missing-zero-grad"])
class TestMarked:
    def test_ignored(self):
        train(clear=False)

    @pytest.mark.loopkit(select=["missing-zero-grad"])
    def test_ignored_by_the_class(self):
        train(clear=False)

@pytest.mark.loopkit
def test_marked_wrong():
    train(clear=False)

@pytest.mark.loopkit(enabled=False)
def test_left_out():
    train(clear=False)

@pytest.mark.loopkit(fail_on="never")
def test_told_only():
    train(clear=False)

@pytest.mark.loopkit(ignore=["missing-zerograd"])
def test_marked_with_no_rule():
    pass

@pytest.mark.loopkit(ignored=["missing-zero-grad"])
def test_marked_with_no_argument():
    pass

@pytest.mark.loopkit(plugins=["train:Nothing"])
def test_marked_with_no_plugin():
    train(clear=True)

class Raises:
    @kit.hookimpl
    def after_step(self):
        raise ZeroDivisionError("mine")

@pytest.mark.loopkit(plugins=[Raises])
def test_plugin_raises():
    train(clear=True)

# -- a watch inside

def test_own_watch_right():
    with kit.watch() as run:
        train(clear=True)
    assert not run.findings and run.steps == 4

@pytest.mark.loopkit(fail_on="never")
def test_own_watch_wrong():
    with kit.watch() as run:
        train(clear=False)
    assert [finding.rule for finding in run.findings] == ["missing-zero-grad"]

def test_own_watch_by_watch_loop():
    from loopkit.testing import assert_finds
    assert_finds(lambda: train(clear=False), "missing-zero-grad")

def test_loop_of_ours():
    net = torch.nn.Linear(4, 2)
    data = torch.utils.data.TensorDataset(torch.ones(6, 4), torch.ones(6, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    kit.Loop(net, optimizer, loader, loss=torch.nn.functional.mse_loss).run(epochs=1)

def test_nothing_is_left():
    assert kit.current_run() is None and kit.asleep.sleeping is not None
    assert torch.optim.Optimizer.zero_grad.__module__.startswith("torch")
"""

FAILED = [
    "test_wrong",
    "test_a_fixture_trains",
    "test_of_unittest",
    "test_a_child_trains",
    "test_fixture_wrong",
    "test_fixture_judges_wrongly",
    "test_marked_wrong",
]
FAILED_ALL_THE_SAME = {
    "test_wrong_and_fails": "assert 1 == 2",
    "test_marked_with_no_rule": "did you mean 'missing-zero-grad'",
    "test_marked_with_no_argument": "the marker takes enabled, fail_on",
    "test_marked_with_no_plugin": "has no 'Nothing'",
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("watched")
    return pytest_on(folder, SUITE, "--loopkit", "--strict-markers", files={"train.py": TRAIN})


def test_findings_fail_the_tests_that_have_them_and_no_others(watched: Done) -> None:
    failed = {name for name, case in watched.cases.items() if case.outcome in ("failure", "error")}
    assert failed == {*FAILED, *FAILED_ALL_THE_SAME}, watched.text
    assert watched.code == 1
    for name, text in FAILED_ALL_THE_SAME.items():
        assert text in watched.cases[name].text


@pytest.mark.parametrize("name", [each for each in FAILED if each != "test_fixture_judges_wrongly"])
def test_the_failure_says_rule_line_and_text(watched: Done, name: str) -> None:
    text = watched.cases[name].text
    assert f"train.py:{LINE}  error  missing-zero-grad  (proof, step 2" in text
    assert "seen   backward added to the gradients of 2 of 2 parameters of AdamW" in text
    assert '@pytest.mark.loopkit(ignore=["missing-zero-grad"])' in text
    assert "Traceback" not in text


def test_a_test_that_failed_by_itself_shows_its_findings_beside(watched: Done) -> None:
    _, _, section = watched.text.partition("Captured loopkit call")
    assert section.lstrip(" -\n").startswith(f"train.py:{LINE}  error  missing-zero-grad")
    assert "Captured loopkit call" not in section  # what the plugin fails has its findings as its failure
    assert "missing-zero-grad" not in watched.cases["test_wrong_and_skips"].text


def test_each_finding_and_the_steps_are_properties_in_junit(watched: Done) -> None:
    properties = watched.cases["test_wrong"].properties
    assert properties["loopkit:steps"] == "4"
    assert properties["loopkit:missing-zero-grad"].startswith(f"train.py:{LINE}  error: backward added")
    assert watched.cases["test_right"].properties == {"loopkit:steps": "4"}
    assert watched.cases["test_trains_nothing"].properties == {}
    assert watched.cases["test_left_out"].properties == {}
    assert watched.cases["test_own_watch_right"].properties == {"loopkit:steps": "4"}
    assert watched.cases["test_own_watch_by_watch_loop"].properties == {}
    assert watched.cases["test_loop_of_ours"].properties == {"loopkit:steps": "3"}


def test_the_summary_counts_what_trained_and_shows_what_failed_nothing(watched: Done) -> None:
    trained = sum("loopkit:steps" in case.properties for case in watched.cases.values())
    assert f"{trained} tests trained and were watched" in watched.text
    assert f"test_suite.py::test_told_only  missing-zero-grad  train.py:{LINE}  error: backward" in watched.text
    assert "test_suite.py::test_fixture_judges  missing-zero-grad" not in watched.text
    assert "loopkit plugin raises failed (after_step): ZeroDivisionError: mine" in watched.text


def test_with_xdist_the_same(watched: Done, tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    done = pytest_on(tmp_path, SUITE, "--loopkit", "-n", "2", files={"train.py": TRAIN})
    outcomes = {name: (case.outcome, case.properties) for name, case in watched.cases.items()}
    assert {name: (case.outcome, case.properties) for name, case in done.cases.items()} == outcomes
    assert [line for line in done.text.splitlines() if "trained and were watched" in line] == [
        line for line in watched.text.splitlines() if "trained and were watched" in line
    ]


def test_without_the_option_only_what_asks_for_it_is_watched(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, SUITE, "-k", "not nothing_is_left", files={"train.py": TRAIN})
    failed = {name for name, case in done.cases.items() if case.outcome in ("failure", "error")}
    asking = {"test_fixture_wrong", "test_fixture_judges_wrongly", "test_marked_wrong"}
    # The test that counts on being found wrong is not watched, and so it is no longer what was expected.
    assert failed == {*asking, *FAILED_ALL_THE_SAME, "test_known_to_be_wrong"}
    assert done.cases["test_wrong"].properties == {}


PLAIN = """
import sys
from train import train

def test_wrong():
    train(clear=False)

def teardown_module():
    assert "loopkit.watching" not in sys.modules
"""


def test_turned_off_it_is_not_there(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, PLAIN, "-p", "no:loopkit", files={"train.py": TRAIN})
    assert (done.code, done.cases["test_wrong"].outcome) == (0, "passed"), done.text
    done = pytest_on(tmp_path, PLAIN, "-p", "no:loopkit", "--loopkit")
    assert done.code == 4
    assert "unrecognized arguments: --loopkit" in done.text


def test_with_coverage_both_see_the_loop(tmp_path: Path) -> None:
    pytest.importorskip("pytest_cov")
    done = pytest_on(
        tmp_path,
        PLAIN.partition("def teardown")[0],
        "--loopkit",
        "--cov=train",
        "--cov-report=term",
        files={"train.py": TRAIN},
    )
    assert f"train.py:{LINE}  error  missing-zero-grad" in done.cases["test_wrong"].text, done.text
    (row,) = [line for line in done.text.splitlines() if line.startswith("train.py ")]
    assert row.split()[-1] == "92%"  # all but the clear


EMPTY = """
import sys

def test_nothing():
    pass

def teardown_module():
    ours = {name for name in sys.modules if name.partition(".")[0] in ("torch", "loopkit", "loopkit_plugins")}
    assert not ours, ours
    assert [name for name in sys.modules if name.startswith("loopkit_pytest")] == ["loopkit_pytest"]
"""


def test_nothing_is_imported_where_no_test_is_to_be_watched(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, EMPTY)
    assert done.code == 0, done.text


TWICE = """
import pytest
from train import train

@pytest.mark.parametrize("n", [1, 2])
def test_wrong(loopkit, n):
    train(clear=False)

def test_judged(loopkit):
    train(clear=False)
    loopkit.assert_finds("missing-zero-grad")

def test_right(loopkit):
    train(clear=True)
    assert loopkit.steps == 0
    assert not loopkit.findings
    assert loopkit.steps == 4
"""


def test_inside_a_run_that_is_open_each_test_is_judged_by_what_it_did_itself(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, TWICE, files={"train.py": TRAIN}, under=["-m", "loopkit", "run"])
    found = {name: case.outcome for name, case in done.cases.items()}
    assert found == {
        "test_wrong[1]": "failure",
        "test_wrong[2]": "failure",
        "test_judged": "passed",
        "test_right": "passed",
    }
    assert done.cases["test_right"].properties == {"loopkit:steps": "4"}
    assert done.code == 1


PATCHES = """
import pytest
import torch
from train import train

NAMES = [(torch, "load"), (torch.optim.Optimizer, "zero_grad"), (torch.nn.Module, "load_state_dict")]
BEFORE = [vars(owner)[name] for owner, name in NAMES]

@pytest.fixture
def patched(monkeypatch):
    for owner, name in NAMES:
        monkeypatch.setattr(owner, name, lambda *args, old=getattr(owner, name), **kwargs: old(*args, **kwargs))

@pytest.fixture
def patch_later(monkeypatch):
    return lambda: [monkeypatch.setattr(owner, name, lambda *args: None) for owner, name in NAMES]

def test_asleep(patched):
    pass

@pytest.mark.loopkit(enabled=False)
def test_left_by_asleep():
    assert [vars(owner)[name] for owner, name in NAMES] == BEFORE

def test_before_training(patched):
    train(clear=True)

@pytest.mark.loopkit(enabled=False)
def test_left_by_before():
    assert [vars(owner)[name] for owner, name in NAMES] == BEFORE

def test_after_training(patch_later):
    train(clear=True)
    patch_later()

@pytest.mark.loopkit(enabled=False)
def test_left_by_after():
    assert [vars(owner)[name] for owner, name in NAMES] == BEFORE
"""


def test_what_a_test_patches_and_puts_back_leaves_nothing_of_ours_in_torch(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, PATCHES, "--loopkit", files={"train.py": TRAIN})
    assert (done.code, len(done.cases)) == (0, 6), done.text
    assert done.cases["test_before_training"].properties == {"loopkit:steps": "4"}


HELD = """
import pytest
import loopkit as kit
from train import train

@pytest.fixture(scope="module")
def run():
    with kit.watch(skip=["console"]) as run:
        yield run
    assert run.steps == 8 and [finding.rule for finding in run.findings] == ["missing-zero-grad"]

def test_right(run):
    train(clear=True)
    assert run.steps == 4

def test_wrong(run):
    train(clear=False)
    assert run.steps == 8
"""


def test_a_watch_that_a_fixture_holds_open_over_tests_hears_all_of_them(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, HELD, "--loopkit", files={"train.py": TRAIN})
    assert {name: case.outcome for name, case in done.cases.items()} == {
        "test_right": "passed",
        "test_wrong": "failure",
    }
    assert "error  missing-zero-grad" in done.cases["test_wrong"].text, done.text


SETTINGS = "[tool.pytest.ini_options]\n[tool.loopkit]\n"
TWO_STEPS = """
from train import train
import torch

def test_a_warning():
    net = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
    for _ in range(4):
        optimizer.zero_grad()
        net(torch.randn(4, 4)).square().mean().backward()
        scheduler.step()
        optimizer.step()

def test_wrong():
    train(clear=False)
"""


def outcomes(folder: Path, settings: str, *options: str) -> list[str]:
    (folder / "pytest.ini").unlink(missing_ok=True)
    files = {"train.py": TRAIN, "pyproject.toml": SETTINGS + settings}
    done = pytest_on(folder, TWO_STEPS, "--loopkit", "-c", "pyproject.toml", *options, files=files)
    return [case.outcome for case in done.cases.values()] if done.cases else [f"exit {done.code}", done.text]


def test_what_fails_a_test_is_said_by_the_project_or_the_option(tmp_path: Path) -> None:
    passed, failed = "passed", "failure"
    assert outcomes(tmp_path, "") == [passed, failed]
    assert outcomes(tmp_path, 'fail-on = "warning"') == [failed, failed]
    assert outcomes(tmp_path, 'fail-on = "warning"', "--loopkit-fail-on=never") == [passed, passed]
    assert outcomes(tmp_path, 'ignore = ["missing-zero-grad"]') == [passed, passed]


def test_settings_that_cannot_be_meant_end_the_run_before_it_begins(tmp_path: Path) -> None:
    code, text = outcomes(tmp_path, 'ignored = ["missing-zero-grad"]')
    assert code == "exit 4"
    assert "unknown key 'ignored' in [tool.loopkit]; did you mean 'ignore'" in text
    assert "Traceback" not in text
