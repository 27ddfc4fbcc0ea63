"""What a test says of findings; where it does not hold, what was found instead."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from loopkit.errors import did_you_mean
from loopkit.finding import Finding, Place
from loopkit.testing.telling import listed

if TYPE_CHECKING:
    from typing import Unpack

    from loopkit.testing.watchedloop import Options

LoopOrFindings = Callable[[], object] | Iterable[Finding]


def assert_finds(
    what: LoopOrFindings, rule: str, *, line_of: str | None = None, **options: Unpack[Options]
) -> Finding:
    """Hold that a rule is found; the finding, for what else is to be held of it.

    Args:
        what: a function, which is run as by `watch_loop`, or findings.
        rule: the slug.
        line_of: source text in the line that the finding must name, and in no other line of that function.
        options: of `watch_loop`, where `what` is a function.

    Raises:
        AssertionError: it was not found, or at another line; the message lists what was found.
    """
    __tracebackhide__ = True
    findings = _findings(what, options)
    named = [finding for finding in findings if finding.rule == rule]
    if not named:
        raise AssertionError(f"{rule} was not found{_unknown(rule)}; {listed(findings)}")
    if line_of is None:
        return named[0]
    problems = [_not_there(finding.place, line_of) for finding in named]
    if None not in problems:
        raise AssertionError(
            f"{rule} was found, but not in the line of {line_of!r}:\n" + "\n".join(map(str, problems))
        )
    return named[problems.index(None)]


def assert_silent(what: LoopOrFindings, rule: str | None = None, **options: Unpack[Options]) -> None:
    """Hold that nothing is found, or nothing of one rule.

    Args:
        what: a function, which is run as by `watch_loop`, or findings.
        rule: the slug; None for all of them.
        options: of `watch_loop`, where `what` is a function.

    Raises:
        AssertionError: it was found; or the function did nothing that could have been judged.
    """
    __tracebackhide__ = True
    findings = _findings(what, options)
    wrong = [finding for finding in findings if rule in (None, finding.rule)]
    if wrong:
        raise AssertionError(f"expected {'nothing' if rule is None else f'no {rule}'}, but {listed(wrong)}")


def _findings(what: LoopOrFindings, options: Options) -> list[Finding]:
    __tracebackhide__ = True
    if not callable(what):
        return list(what)
    from loopkit.testing.watchedloop import run_of  # torch

    run = run_of(what, **options)
    if not run.findings and not run.steps_by_process() and not run.unfinished_row():
        name = getattr(what, "__qualname__", repr(what))
        raise AssertionError(
            f"{name} did nothing that is watched: no forward, backward or step, so nothing was judged"
        )
    return run.findings


def _unknown(rule: str) -> str:
    """A clause for a rule that no installed check has: it may be misspelled."""
    from loopkit.rulebook import rules

    return "" if rule in rules() else f" (no installed check has that rule{did_you_mean(rule, rules())})"


def _not_there(place: Place | None, text: str) -> str | None:
    """Why a place is not the line of this text; None if it is."""
    if place is None:
        return "  it names no line"
    line = linecache.getline(place.file, place.line).strip()
    if not line:
        return f"  {place}, whose source cannot be read"
    at = [number for number, each in _function_around(place) if text in each]
    if place.line not in at:
        return f"  {place} is `{line}`" + (f"; the text stands in line {', '.join(map(str, at))}" if at else "")
    if len(at) > 1:
        return f"  the text stands in lines {', '.join(map(str, at))}: name more of the one that is meant"
    return None


def _function_around(place: Place) -> list[tuple[int, str]]:
    """The lines of the innermost function that holds a place, numbered; of the whole file where none does."""
    lines = linecache.getlines(place.file)
    first, last = 1, len(lines)
    for node in _functions("".join(lines)):
        if first <= node.lineno <= place.line <= (node.end_lineno or node.lineno) <= last:
            first, last = node.lineno, node.end_lineno or node.lineno
    return [(number, lines[number - 1]) for number in range(first, last + 1)]


def _functions(source: str) -> Iterable[Any]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # not Python: the line alone counts
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
