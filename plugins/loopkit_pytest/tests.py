"""What is done around each test, once some test is to be watched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from loopkit.config import FAIL_ON, Config, nearest
from loopkit.errors import LoopkitError, UsageError
from loopkit.finding import Finding, Severity
from loopkit_pytest import PREFIX, WATCHED

if TYPE_CHECKING:
    from loopkit.testing import WatchedTest

SETTINGS = pytest.StashKey[Config]()
_MARKED = {"select", "ignore", "plugins", "probe", "fail_on", "enabled"}


class Tests:
    """Opens a watch for each test, closes it when the test body is over, and judges.

    A watch begins before the fixtures of its test are set up: these make models and optimizers, and may train.
    """

    def __init__(self, config: pytest.Config) -> None:
        try:
            config.stash[SETTINGS] = nearest(config.rootpath)
        except LoopkitError as error:
            raise pytest.UsageError(f"loopkit: {error}") from None
        self._all = bool(config.getoption("loopkit"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """Begin to watch a test that is to be watched."""
        problem = self._begin(item)
        result = yield  # pytest's own set-up comes in any case: its tear-down counts on it
        if problem is not None:
            pytest.fail(f"loopkit: {problem}", pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Judge a test that came to its end; of one that failed, show what was found beside its own failure."""
        try:
            result = yield
        except pytest.skip.Exception:
            raise
        except BaseException:
            if findings := _closed(item):
                item.add_report_section("call", "loopkit", "\n\n".join(_told(item, each) for each in findings))
            raise
        failing = [finding for finding in _closed(item) if _fails(item, finding)]
        if failing:
            counted = f"{len(failing)} finding{'' if len(failing) == 1 else 's'}"
            text = "\n\n".join(_told(item, finding) for finding in failing)
            pytest.fail(f"loopkit: {counted} in the training loop of this test\n\n{text}", pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        """End a watch whose test never ran, since a fixture failed or skipped; then, without fixtures, tidy up."""
        watched = item.stash.get(WATCHED, None)
        if watched is not None:
            watched.close()
        try:
            return (yield)
        finally:
            if watched is not None:
                watched.settle()
                del item.stash[WATCHED]

    def _begin(self, item: pytest.Item) -> LoopkitError | None:
        """Begin to watch; why that cannot be done."""
        try:
            marked = mark_of(item)
            asks = marked.given or "loopkit" in getattr(item, "fixturenames", ())
            if marked.enabled and (self._all or asks):
                watched = item.stash[WATCHED] = watched_test(item)
                watched.begin()
        except LoopkitError as error:
            return error
        return None


@dataclass(frozen=True, slots=True)
class Mark:
    """What the markers of a test say, the nearest first; those it inherits add to what it ignores and plugs in."""

    given: bool
    enabled: bool
    fail_on: str | None
    options: dict[str, Any]


def watched_test(item: pytest.Item) -> WatchedTest:
    """A watch for this test, not begun.

    Raises:
        UsageError: its marker, or the project, names a rule or an argument that there is not.
    """
    from loopkit.testing import WatchedTest

    return WatchedTest(**mark_of(item).options, settings=item.config.stash.get(SETTINGS, None))


def mark_of(item: pytest.Item) -> Mark:
    """What the markers of a test say.

    Raises:
        UsageError: an argument that there is not.
    """
    marks = list(item.iter_markers("loopkit"))
    for mark in marks:
        if wrong := [*map(repr, mark.args), *(set(mark.kwargs) - _MARKED)]:
            raise UsageError(f"the marker takes {', '.join(sorted(_MARKED))} by name, not {', '.join(wrong)}")
    said: dict[str, Any] = {}
    for mark in reversed(marks):  # the nearest comes last and counts
        said |= mark.kwargs
    if said.get("fail_on") not in (None, *FAIL_ON):
        raise UsageError(f"fail_on is one of {', '.join(FAIL_ON)}, not {said['fail_on']!r}")
    options: dict[str, Any] = {name: said[name] for name in ("select", "probe") if name in said}
    for name in ("ignore", "plugins"):
        options[name] = [each for mark in marks for each in mark.kwargs.get(name, ())]
    return Mark(bool(marks), said.get("enabled", True), said.get("fail_on"), options)


def _closed(item: pytest.Item) -> list[Finding]:
    """End the watch; what it found that the test has not judged itself, also noted in the test's properties: there
    reports, JUnit files and other processes read it.
    """
    watched = item.stash.get(WATCHED, None)
    if watched is None:
        return []
    item.user_properties[:] = [each for each in item.user_properties if not each[0].startswith(PREFIX)]
    try:
        findings = watched.close()
    except LoopkitError as error:
        raise pytest.fail.Exception(f"loopkit: {error}", pytrace=False) from None
    if watched.steps or findings:
        item.user_properties.append((f"{PREFIX}steps", watched.steps))
    for failure in watched.failures:
        item.warn(pytest.PytestWarning(f"loopkit plugin {failure}"))
    if watched.judged:
        return []
    for finding in findings:
        item.user_properties.append((f"{PREFIX}{finding.rule}", _brief(item, finding)))
    return findings


def _fails(item: pytest.Item, finding: Finding) -> bool:
    settings = item.config.stash.get(SETTINGS, Config())
    chosen = mark_of(item).fail_on or item.config.getoption("loopkit_fail_on") or settings.fail_on or "error"
    return chosen != "never" and finding.severity.at_least(Severity(chosen))


def _brief(item: pytest.Item, finding: Finding) -> str:
    from loopkit.testing.telling import where

    return f"{where(finding, str(item.config.rootpath))}  {finding.severity}: {finding.seen}"


def _told(item: pytest.Item, finding: Finding) -> str:
    from loopkit.testing.telling import told

    quiet = f'# loopkit: ignore[{finding.rule}]   or   @pytest.mark.loopkit(ignore=["{finding.rule}"])'
    return told(finding, quiet, str(item.config.rootpath))
