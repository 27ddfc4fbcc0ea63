"""Which keys a script's code looks up, read from its text: what it takes out of a checkpoint, and where."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopkit.callsite import Site

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SHOWS = ("print", "info", "debug", "warning", "write", "log", "format")


def code_of(file: str) -> ast.Module | None:
    """The code of a file; None where there is none to read."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None
    return tree if tree.body else None


def functions_around(site: Site) -> Iterator[ast.AST]:
    """The functions in which a call stands, and those that called these; a module without its functions."""
    for place in site.chain:
        tree = code_of(place.file)
        if tree is None:
            continue
        name = place.function.rpartition(".")[2]
        inner = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
        around = [each for each in inner if each.name == name and each.lineno <= place.line <= (each.end_lineno or 0)]
        if around:
            yield around[-1]
        elif name == "<module>":
            yield from (node for node in tree.body if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)))


def keys_read(trees: Iterable[ast.AST]) -> set[str]:
    """The constant keys that code looks up, other than to show them."""
    keys: set[str] = set()
    waiting = list(trees)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and _called(node) in _SHOWS):
            continue
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Load)
            and isinstance(node.slice, ast.Constant)
        ):
            keys.add(str(node.slice.value))
        if isinstance(node, ast.Call) and _called(node) in ("get", "pop") and node.args:
            keys |= {str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant)}
        waiting += ast.iter_child_nodes(node)
    return keys


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
