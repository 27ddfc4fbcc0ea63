"""The pytest plugin: `pytest --loopkit` watches every test that trains, and findings fail it.

A `pytest11` entry loads in every pytest run of its environment. So nothing of loopkit or torch is imported here, and
no hook that is called for each test stands here, until some test is to be watched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from loopkit.testing import WatchedTest

MARKER = """loopkit(select=None, ignore=(), plugins=(), probe=False, fail_on=None, enabled=True): \
watch this test's training loop, also without --loopkit; enabled=False: never."""
PREFIX = "loopkit:"
"""What the properties of a watched test begin with, in JUnit files too."""
WATCHED = pytest.StashKey["WatchedTest"]()
_TESTS = "loopkit-tests"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("loopkit", "training loops")
    group.addoption("--loopkit", action="store_true", help="watch every test that trains; findings fail it")
    group.addoption(
        "--loopkit-fail-on",
        choices=("error", "warning", "never"),
        help="which findings fail a test (default: fail-on of [tool.loopkit], or error)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; with --loopkit, read the settings, so that a wrong one ends the run before it begins."""
    config.addinivalue_line("markers", MARKER)
    if config.getoption("loopkit"):
        _watch_tests(config)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Watch the tests that ask for it themselves."""
    if not session.config.pluginmanager.has_plugin(_TESTS) and any(map(_asks, session.items)):
        _watch_tests(session.config)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests trained, and what was found that failed none of them."""
    told = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        and any(name.startswith(PREFIX) for name, _ in report.user_properties)
    ]
    if told:
        from loopkit_pytest.summary import summary

        terminalreporter.section("loopkit")
        for line in summary(told):
            terminalreporter.write_line(line)


@pytest.fixture
def loopkit(request: pytest.FixtureRequest) -> Iterator[WatchedTest]:
    """Watch this test's training loop, also without --loopkit.

    Findings fail the test, as with --loopkit, unless it reads `loopkit.findings` or calls `loopkit.assert_finds(rule,
    line_of=…)` or `loopkit.assert_silent()`: then it judges them itself.
    """
    watched = request.node.stash.get(WATCHED, None)
    if watched is None:  # asked for by name while the test runs, or left out by the marker
        from loopkit_pytest.tests import watched_test

        watched = request.node.stash[WATCHED] = watched_test(request.node)
        watched.begin()
    yield watched
    watched.close()


def _asks(item: pytest.Item) -> bool:
    return "loopkit" in getattr(item, "fixturenames", ()) or item.get_closest_marker("loopkit") is not None


def _watch_tests(config: pytest.Config) -> None:
    from loopkit_pytest.tests import Tests

    config.pluginmanager.register(Tests(config), _TESTS)
