"""Lists that must agree: imports and layers, files and registrations, hooks and README, rules and pages."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loopkit import hookspecs
from loopkit.manager import FORMATS, GROUP, installed
from loopkit.rulebook import rules

ROOT = Path(__file__).parents[1]
CORE = ROOT / "loopkit"
PLUGINS = ROOT / "plugins" / "loopkit_plugins"
PYTEST = ROOT / "plugins" / "loopkit_pytest"
README = (ROOT / "README.md").read_text(encoding="utf-8")

LAYERS = [
    {
        "asleep",
        "chance",
        "criterionreading",
        "curvefit",
        "curvereading",
        "effect",
        "errors",
        "finding",
        "habit",
        "hearing",
        "hookspecs",
        "inputs",
        "kept",
        "loaders",
        "lookups",
        "lossmean",
        "lossnodes",
        "lossreading",
        "lossvalues",
        "meant",
        "modal",
        "models",
        "modereading",
        "ranks",
        "row",
        "schedule",
        "shards",
        "shares",
        "sources",
        "strays",
        "unseen",
    },
    {
        "baseline",
        "calls",
        "callsite",
        "checkpoints",
        "config",
        "course",
        "curvetags",
        "digests",
        "doubt",
        "draws",
        "ending",
        "feeds",
        "horizon",
        "levels",
        "logbook",
        "lossgiven",
        "lossinputs",
        "modelshape",
        "norms",
        "padding",
        "placing",
        "plugin",
        "rates",
        "replay",
        "samples",
        "script",
        "states",
        "targets",
        "trace",
        "twins",
        "units",
        "untouched",
        "update",
        "wraps",
    },
    {
        "clips",
        "criteria",
        "curvesigns",
        "efforts",
        "lineage",
        "lossfault",
        "lossmade",
        "manager",
        "modes",
        "objective",
        "pending",
        "rehearsal",
        "rulebook",
        "signature",
        "silence",
        "spreading",
        "sums",
        "survey",
        "tally",
        "windows",
    },
    {
        "criteriaheard",
        "curvefiles",
        "curves",
        "finiteness",
        "holdings",
        "integrations",
        "lossfunctions",
        "parts",
        "replicas",
        "reports",
        "scaling",
    },
    {
        "curvelog",
        "curvereport",
        "found",
        "graphwalk",
        "looking",
        "lossgraph",
        "moves",
        "opensteps",
        "pluginlist",
        "reading",
    },
    {"expected", "making", "owners"},
    {"usual"},
    {"ledger"},
    {"schedulers", "symmetry", "weights"},
    {"history", "losses"},
    {"record"},
    {"phases"},
    {"settling"},
    {"clearing"},
    {"stepping"},
    {"recorder"},
    {"notes"},
    {"account"},
    {"run"},
    {"taps"},
    {"processes"},
    {"watching"},
    {"batching", "door", "joining", "metrics", "running", "session", "testing"},
    {"notebook", "passes", "tracing"},
    {"cli", "loop"},
    {"__main__"},
]
"""The core, one layer a row: a module imports only from rows above its own."""

HEADINGS = ["What it looks for", "Why that hurts", "A loop that has it", "The repair", "Left alone", "What it costs"]


def imports(path: Path, at_run_time: bool = True) -> set[str]:
    """The modules a file imports, but for those needed by annotations alone."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if at_run_time and isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return found


def test_every_module_of_the_core_has_a_layer_and_imports_only_from_above() -> None:
    level = {name: row for row, names in enumerate(LAYERS) for name in names}
    for path in sorted(CORE.rglob("*.py")):
        own = path.relative_to(CORE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in level, f"{path} has no layer: add it to LAYERS in this file"
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("loopkit.") and "." in name else ""
            if other in level and other != own:
                assert level[other] < level[own], f"{path.name} imports {name}, which is not above it"


def test_the_core_needs_torch_and_pluggy_alone() -> None:
    for path in CORE.rglob("*.py"):
        tops = {name.partition(".")[0] for name in imports(path)}
        foreign = tops - set(sys.stdlib_module_names) - {"loopkit", "torch", "pluggy"}
        if path == CORE / "testing" / "strategies.py":  # imported by tests that use hypothesis, and by nothing here
            foreign -= {"hypothesis"}
        assert not foreign, f"{path} imports {foreign}"


def test_plugins_use_public_names_of_loopkit_and_never_each_other() -> None:
    import loopkit

    for path in PLUGINS.rglob("*.py"):
        for name in imports(path, at_run_time=False):
            assert not name.startswith("loopkit_plugins"), f"{path} imports another plugin: make it an instrument"
            if name.startswith("loopkit."):
                assert name.removeprefix("loopkit.") in loopkit.__all__, f"{path} imports {name}, which is not public"


def test_the_pytest_plugin_needs_pytest_alone_until_it_is_used() -> None:
    tree = ast.parse((PYTEST / "__init__.py").read_text(encoding="utf-8"))
    at_import = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    at_import |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert at_import == {"__future__", "collections.abc", "typing", "pytest"}
    for path in PYTEST.rglob("*.py"):
        tops = {name.partition(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
        assert tops <= {"pytest", "loopkit", "loopkit_pytest"}, f"{path} imports {tops}"


def test_files_of_checks_and_registrations_agree() -> None:
    files = {path.stem.replace("_", "-") for path in (PLUGINS / "checks").glob("*/*.py") if path.stem != "__init__"}
    assert files == set(rules()), "a check's file, its `rule` and its line in the family's tuple bear one name"
    families = {path.parent.name for path in (PLUGINS / "checks").glob("*/__init__.py")}
    entries = {entry.name for entry in importlib.metadata.entry_points(group=GROUP)}
    assert families <= entries, "each family has one entry point in pyproject.toml"
    for slug in rules():
        assert (ROOT / "tests" / "checks" / f"test_{slug.replace('-', '_')}.py").exists(), f"{slug} has no test"


def test_every_sink_is_registered() -> None:
    targets = {offer.target for offer in installed()}
    targets |= {entry.value for entry in importlib.metadata.entry_points(group=FORMATS)}
    for path in (PLUGINS / "sinks").glob("[a-z]*.py"):
        assert any(f".sinks.{path.stem}:" in target for target in targets), f"{path} is in no entry point"


@pytest.mark.parametrize("slug", sorted(rules()))
def test_a_rules_page_has_all_its_headings_in_order(slug: str) -> None:
    page = rules()[slug].page
    found = [line for line in page.splitlines() if line in HEADINGS]
    assert found == HEADINGS
    assert rules()[slug].severity
    assert rules()[slug].confidence


def test_every_hook_is_documented_in_the_readme_with_its_arguments() -> None:
    for name, value in vars(hookspecs).items():
        if hasattr(value, f"{GROUP}_spec"):
            arguments = list(value.__code__.co_varnames[: value.__code__.co_argcount])
            arguments.remove("run")
            row = f"| `{name}` | {', '.join(f'`{argument}`' for argument in arguments)}"
            assert row.rstrip() in README, f"the README's table of hooks lacks: {row}"
            assert value.__doc__
            assert "Cost:" in value.__doc__, f"{name} does not say what it costs"


def test_every_rule_is_in_the_readme_once_and_under_its_family() -> None:
    family, found = "", []
    for line in README.splitlines():
        if head := re.match(r"\| \*\*(\w+)\*\*", line):
            family = head[1]
        elif row := re.match(r"\| `([a-z0-9-]+)` \| (\w+) \| (\w+) \| .+ \|$", line):
            found.append((row[1], family, row[2], row[3]))
    told = sorted((rule.slug, rule.family, rule.severity, rule.confidence) for rule in rules().values())
    assert sorted(found) == told, "the README's table of rules and `loopkit rules` differ"


def test_public_names_can_all_be_fetched() -> None:
    import loopkit

    for name in loopkit.__all__:
        assert getattr(loopkit, name) is not None
    assert callable(loopkit.watch)
    assert callable(loopkit.batches)
    with pytest.raises(AttributeError):
        loopkit.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["explain", "missing-zero-grad"],
        ["rules"],
        ["plugins"],
        ["run", "-h"],
        ["curves", "-h"],
        ["report", "-h"],
        ["trace", "-h"],
    ],
)
def test_commands_that_run_nothing_import_no_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom loopkit.cli import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100


def test_file_and_function_sizes() -> None:
    for path in [*CORE.rglob("*.py"), *PLUGINS.rglob("*.py"), *PYTEST.rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 350, f"{path} is long: do two things live in it?"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                doc = len((ast.get_docstring(node) or "").splitlines())
                length = (node.end_lineno or node.lineno) - node.lineno + 1 - doc
                assert length <= 60, f"{path}: {node.name} is {length} lines long"


def test_the_name_of_the_table_of_events_is_where_the_taps_are() -> None:
    import loopkit.taps

    documented = set(re.findall(r"`([a-z_]+)`", loopkit.taps.__doc__ or ""))
    spoken = {name for name, value in vars(hookspecs).items() if hasattr(value, f"{GROUP}_spec")}
    own = {"run_started", "run_finished", "update_finished", "finding_reported", "metric_logged"}
    own |= {"epoch_started", "epoch_finished"}  # told by `Loop`
    assert spoken - own <= documented, "the table in taps/__init__.py lacks an event"
