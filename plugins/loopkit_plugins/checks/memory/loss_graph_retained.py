"""The graphs of losses are kept after their backward, one more with each update."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator

from loopkit import Confidence, Finding, Kept, KeptGraphs, Kind, Place, Run, Severity, Site, Update, hookimpl

_LOOKS = 4
_SPAN, _SHORT = 15, 6
"""Updates that graphs are kept for: as a warning, and as info at the end of a run that does not get so far."""


class LossGraphRetained:
    """Something keeps the graph of every loss: a sum of losses, or a list of them.

    What it looks for
        The graphs of losses that were sent backward are still alive later on: those of all updates looked at, four at
        least, over fifteen updates. Shorter runs are info.

    Why that hurts
        Memory grows with every step. The sum of an epoch's losses is one graph as deep as the epoch is long; where
        the loss was not sent backward, or `retain_graph` was given, it holds all activations too.

    A loop that has it
        total = 0.0
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            ...
            total += loss

    The repair
        Keep numbers: `total += loss.item()`, or `loss.detach()`, which does not wait for the device.

    Left alone
        The losses of one update that are summed before their backward; the last few, such as the loss that a variable
        still holds; graphs carried from step to step that are let go later on.

    What it costs
        A mark on one node of each walked graph, in the first updates and then ever more rarely.
    """

    rule = "loss-graph-retained"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._short: tuple[Site, KeptGraphs, int] | None = None
        self._said = False

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Ask what has become of the graphs of earlier updates."""
        site = next((each.site for each in update.events if each.kind is Kind.BACKWARD and each.site), None)
        if site is None or self._said:
            return
        kept = run.instrument(Kept).told(update.updates)
        if kept.alive < _LOOKS or kept.alive < kept.looked_at:
            return
        if kept.span >= _SPAN:
            self._said = True
            yield self._finding(site, kept, update.number, Severity.WARNING)
        elif kept.span >= _SHORT:
            self._short = site, kept, update.number

    @hookimpl
    def run_finished(self) -> Iterator[Finding]:
        """Say it of a short run too."""
        if self._short is not None and not self._said:
            yield self._finding(*self._short, Severity.INFO)

    def _finding(self, site: Site, kept: KeptGraphs, number: int, severity: Severity) -> Finding:
        keeper = _keeper(site)
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=keeper or site.place,
            places={"backward": site.place},
            seen=f"the graphs of all {kept.alive} losses looked at in the last {kept.span} updates are still alive, "
            f"the oldest with {kept.nodes} nodes",
            why="a sum or a list of losses keeps the graph of each: memory grows with every step",
            remedy="keep loss.item() or loss.detach() instead of the loss itself",
            evidence={
                "alive": kept.alive,
                "updates": kept.span,
                "nodes": kept.nodes,
                "found_in_source": keeper is not None,
                "backward_frames": [str(place) for place in site.chain],
                "framework": str(site.framework) if site.framework else None,
            },
            step=number,
        )


def _keeper(site: Site) -> Place | None:
    """The statement that adds the loss to something, if the source shows one near the backward or its callers."""
    for depth, place in enumerate(site.chain):
        try:
            tree = ast.parse("".join(linecache.getlines(place.file)))
        except SyntaxError:
            continue
        names = _losses(tree, place.line, depth)
        around = [each for each in ast.walk(tree) if isinstance(each, _SCOPES) and _covers(each, place.line)]
        scope = around[-1] if around else tree
        found = [each for each in ast.walk(scope) if isinstance(each, ast.stmt) and _keeps(each, names)]
        if found:
            return Place(place.file, found[0].lineno, place.function)
    return None


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef)


def _covers(node: ast.AST, line: int) -> bool:
    return getattr(node, "lineno", line + 1) <= line <= (getattr(node, "end_lineno", None) or 0)


def _losses(tree: ast.AST, line: int, depth: int) -> set[str]:
    """The names in the call of `backward`; further out, those that a call is assigned to."""
    simple = (ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign)
    here = [each for each in ast.walk(tree) if isinstance(each, simple) and _covers(each, line)]
    if depth == 0:
        return {each.id for stmt in here for each in ast.walk(stmt) if isinstance(each, ast.Name)}
    targets = [target for stmt in here if isinstance(stmt, ast.Assign) for target in stmt.targets]
    return {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}


def _keeps(stmt: ast.stmt, names: set[str]) -> bool:
    if isinstance(stmt, ast.AugAssign):
        return isinstance(stmt.op, ast.Add) and _is_bare(stmt.value, names)
    if isinstance(stmt, ast.Assign) and isinstance(stmt.value, ast.BinOp):
        own = {each.id for target in stmt.targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        used = {each.id for each in ast.walk(stmt.value) if isinstance(each, ast.Name)}
        return bool(own & used) and _is_bare(stmt.value, names - own)
    if isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Call):
        call = stmt.value
        is_append = isinstance(call.func, ast.Attribute) and call.func.attr in ("append", "appendleft")
        return is_append and any(_is_bare(each, names) for each in call.args)
    return False


def _is_bare(value: ast.expr, names: set[str]) -> bool:
    """Whether one of the names stands there as it is: not `loss.item()`, nor `float(loss)`."""
    if isinstance(value, ast.Name):
        return value.id in names
    if isinstance(value, (ast.Call, ast.Attribute, ast.Constant)):
        return False
    return any(_is_bare(each, names) for each in ast.iter_child_nodes(value) if isinstance(each, ast.expr))
