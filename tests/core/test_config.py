"""Patterns of files, thresholds, and the baseline's round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopkit import Confidence, Finding, Place, Severity, UsageError
from loopkit.baseline import Baseline
from loopkit.config import matches, tune

NAMES = st.text("abé_", min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("pattern", "file", "fits"),
    [
        ("train.py", "/p/train.py", True),
        ("train.py", "/p/deep/down/train.py", True),
        ("deep/*.py", "/p/deep/train.py", True),
        ("deep/*.py", "/p/deep/down/train.py", False),
        ("deep/**/*.py", "/p/deep/down/under/train.py", True),
        ("deep", "/p/deep/down/train.py", True),
        ("deep/", "/p/deep/down/train.py", True),
        ("eep", "/p/deep/down/train.py", False),
        ("*.py", "/elsewhere/train.py", True),
    ],
)
def test_patterns(pattern: str, file: str, fits: bool) -> None:
    assert matches(file, pattern, Path("/p")) is fits


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_file_matches_its_own_name_and_every_folder_it_is_in(parts: list[str]) -> None:
    file = "/p/" + "/".join(parts)
    assert matches(file, "/".join(parts), Path("/p"))
    assert matches(file, parts[-1], Path("/p"))
    for depth in range(1, len(parts)):
        assert matches(file, "/".join(parts[:depth]), Path("/p"))
    assert not matches(file, "/".join([*parts, "x"]), Path("/p"))


class Tunable:
    rule = "tunable"
    thresholds = {"many": 3.0}


def test_thresholds_are_set_on_the_object_alone() -> None:
    check = Tunable()
    tune(check, {"tunable": {"many": 5}, "another": {"few": 1}})
    assert check.thresholds == {"many": 5}
    assert Tunable.thresholds == {"many": 3.0}
    with pytest.raises(UsageError, match="no threshold 'meny'; did you mean 'many'"):
        tune(check, {"tunable": {"meny": 5}})
    with pytest.raises(UsageError, match="it has none"):
        tune(object(), {"": {"many": 5}})


def finding(rule: str, file: str, line: int, function: str, subject: str) -> Finding:
    place = Place(file, line, function)
    return Finding(rule, Severity.ERROR, Confidence.PROOF, "seen", "why", "try", place=place, subject=subject)


@given(st.lists(st.builds(finding, NAMES, NAMES, st.integers(1, 9), NAMES, NAMES), max_size=5))
def test_a_baseline_knows_what_was_written_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, findings: list[Finding]
) -> None:
    path = tmp_path_factory.mktemp("baseline") / "known.json"
    written = Baseline(path.parent)
    assert written.write(path, findings) == len({written.entry(each) for each in findings})
    read = Baseline.read(path)
    assert read.entries == {written.entry(each) for each in findings}
    assert all(read.knows(each) for each in findings)
    assert not read.knows(finding("another-rule", "a", 1, "f", ""))
