"""The rules that installed checks can report, read from their source: importing neither them nor torch.

A check's file, class, registration and test bear its slug; its docstring is its page. So `loopkit rules` and
`loopkit explain` need only the text of the file.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loopkit.errors import UsageError, did_you_mean
from loopkit.plugin import beside
from loopkit.plugin.offers import installed


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding.

    Args:
        slug: its name, everywhere.
        family: the entry point it came by.
        severity, confidence: as the check's class states them.
        page: the docstring of the check's class.
        target: `module:Class`.
    """

    slug: str
    family: str
    severity: str
    confidence: str
    page: str
    target: str

    @property
    def cost(self) -> str:
        """What it costs, in the page's first words on it."""
        _, _, said = self.page.partition("What it costs\n")
        return re.split(r"[.:;,(]", " ".join(said.split()), maxsplit=1)[0].strip().lower()

    @property
    def asked_for(self) -> bool:
        """Whether it is looked for only with `--probe`."""
        return self.confidence == "probe"

    @property
    def summary(self) -> str:
        """The first line of the page."""
        return self.page.partition("\n")[0]


@functools.cache
def rules() -> dict[str, Rule]:
    """Every rule by slug, of installed plugins and of those in the working directory's `loopkit_plugins.py`. A plugin
    whose class has no literal `rule` attribute reports none that is known.
    """
    found: dict[str, Rule] = {}
    for offer in installed():
        for rule in _read(offer.target.partition(":")[0], offer.entry):
            if rule.target == offer.target:
                found.setdefault(rule.slug, rule)
    if (file := beside.in_folder(os.getcwd())) is not None:
        for rule in _read(file, beside.FILE):
            found.setdefault(rule.slug, rule)
    return dict(sorted(found.items()))


def check_slugs(slugs: list[str], extra: frozenset[str] = frozenset()) -> None:
    """Refuse a rule name that no installed check has.

    Args:
        slugs: what the user wrote.
        extra: rules of plugins that were handed over and are not installed.

    Raises:
        UsageError: names the first unknown slug and its nearest neighbour.
    """
    known = set(rules()) | extra
    for slug in slugs:
        if slug not in known:
            raise UsageError(f"unknown rule {slug!r}{did_you_mean(slug, known)} `loopkit rules` lists them")


def _read(module: str, family: str) -> Iterator[Rule]:
    """The rules of the classes in a module, or in a file."""
    try:
        file = module if module.endswith(".py") else _source(module)
        tree = ast.parse(Path(file).read_text(encoding="utf-8")) if file is not None else ast.Module([], [])
    except (ImportError, OSError, SyntaxError, ValueError):
        return  # `loopkit plugins` says why it cannot be loaded
    for node in tree.body:
        values = _attributes(node) if isinstance(node, ast.ClassDef) else {}
        if isinstance(node, ast.ClassDef) and "rule" in values:
            yield Rule(
                slug=values["rule"],
                family=family,
                severity=values.get("severity", ""),
                confidence=values.get("confidence", ""),
                page=inspect.cleandoc(ast.get_docstring(node) or ""),
                target=f"{module}:{node.name}",
            )


def _source(module: str) -> str | None:
    spec = importlib.util.find_spec(module)
    return spec.origin if spec is not None else None


def _attributes(node: ast.ClassDef) -> dict[str, str]:
    """The class's plain attributes: `rule = "slug"`, and `severity = Severity.ERROR` as "error"."""
    values: dict[str, str] = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if not isinstance(target, ast.Name):
            continue
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            values[target.id] = value.value
        elif isinstance(value, ast.Attribute):
            values[target.id] = value.attr.lower()
    return values
