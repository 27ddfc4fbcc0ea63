"""Our own package of plugins, found even where the user's folder has a file of the same name."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys

PACKAGE = "loopkit_plugins"
DISTRIBUTION = "torch-loopkit"


def is_ours(plugin: object) -> bool:
    """Whether a plugin, or its class, ships with loopkit."""
    module = (plugin if isinstance(plugin, type) else type(plugin)).__module__
    return module.partition(".")[0] in ("loopkit", PACKAGE)


def claim() -> None:
    """Have the name `loopkit_plugins` stand for our package.

    A file `loopkit_plugins.py` beside the script is the user's own, and Python would take it for ours, since the
    script's folder comes first on `sys.path`. It is loaded under another name; see `beside.py`.
    """
    known = sys.modules.get(PACKAGE)
    if known is not None and hasattr(known, "__path__"):
        return
    spec = _package()
    if spec is None or spec.loader is None or not spec.submodule_search_locations:
        return  # the import will say so
    if known is not None:  # the script has imported its own file: it keeps it, and ours are found within
        known.__path__ = list(spec.submodule_search_locations)
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def _package() -> importlib.machinery.ModuleSpec | None:
    """The first on the path that is a package: a file is none."""
    for folder in sys.path:
        spec = importlib.machinery.PathFinder.find_spec(PACKAGE, [folder])
        if spec is not None and spec.submodule_search_locations and spec.origin:
            return spec
    return importlib.util.find_spec(PACKAGE) if PACKAGE not in sys.modules else None
