"""The lines at the end of a pytest run, from reports alone: with xdist the tests ran in other processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from loopkit_pytest import PREFIX

_STEPS = f"{PREFIX}steps"


def summary(reports: Sequence[Any]) -> Iterator[str]:
    """How many tests trained, and the findings of those that passed all the same."""
    trained = sum(any(name == _STEPS for name, _ in report.user_properties) for report in reports)
    steps = sum(value for report in reports for name, value in report.user_properties if name == _STEPS)
    yield (
        f"{trained} test{'' if trained == 1 else 's'} trained and {'was' if trained == 1 else 'were'} watched: "
        f"{steps:,} optimizer step{'' if steps == 1 else 's'}"
    )
    for report in reports:
        for name, value in report.user_properties:
            if name.startswith(PREFIX) and name != _STEPS and report.passed:
                yield f"{report.nodeid}  {name.removeprefix(PREFIX)}  {value}"
