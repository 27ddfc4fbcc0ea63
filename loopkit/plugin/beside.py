"""Plugins in a file that is no module of a package: `loopkit_plugins.py` beside the script, or one that was named.

The module's name is its path, so it is found again by it in a child process, and neither hides our own package
`loopkit_plugins` nor is hidden by it.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from loopkit.errors import PluginError, did_you_mean
from loopkit.hookspecs import PROJECT

FILE = "loopkit_plugins.py"
"""Loaded by `loopkit run` when it stands in the folder of the script."""


def in_folder(folder: str | os.PathLike[str] | None) -> str | None:
    """The target of the project's own plugins, or None where there are none."""
    if folder is None:
        return None
    path = Path(folder).absolute() / FILE
    return str(path) if path.is_file() else None


def is_file(target: str) -> bool:
    """Whether a target names a file: `checks.py`, `path/to/checks.py:Name`."""
    return _split(target)[0].endswith(".py") and target.count(":") <= 1 + (os.name == "nt")


def name_of(target: str) -> str:
    """What to call it: its class as a slug, or the file where that is all that is known."""
    file, name = _split(target)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower() if name else os.path.basename(file)


def fetch(target: str) -> Any:
    """The object that a file has under a name; without a name, the targets of all plugins in it.

    `PLUGINS`, a tuple of classes, says which those are; else they are the classes that stand in the file and have a
    method marked as a hook.

    Raises:
        PluginError: no such file, or no such name in it, or no plugin. What importing it raises passes.
    """
    file, name = _split(target)
    module = _loaded(os.path.abspath(file))
    if not name:
        return tuple(f"{module.__name__}:{each.__name__}" for each in _plugins(module))
    try:
        return getattr(module, name)
    except AttributeError:
        near = did_you_mean(name, vars(module))
        raise PluginError(f"cannot load plugin {target!r}: {file} has no {name!r}{near}") from None


def _split(target: str) -> tuple[str, str]:
    if target.endswith(".py"):
        return target, ""
    file, _, name = target.rpartition(":")
    return file, name


def _loaded(path: str) -> ModuleType:
    if path in sys.modules:
        return sys.modules[path]
    spec = importlib.util.spec_from_file_location(path, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise PluginError(f"cannot load plugins from {path!r}: there is no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path]
        raise
    return module


def _plugins(module: ModuleType) -> list[type]:
    given = getattr(module, "PLUGINS", None)
    if given is not None:
        if not all(isinstance(each, type) and getattr(module, each.__name__, None) is each for each in given):
            raise PluginError("PLUGINS is a tuple of classes that stand in this file or are imported by it")
        return list(given)
    own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    found = [each for each in own if not each.__name__.startswith("_") and _is_plugin(each)]
    if not found:
        raise PluginError("it holds no class with a method marked @loopkit.hookimpl")
    return found


def _is_plugin(each: type) -> bool:
    return any(hasattr(inspect.getattr_static(each, name, None), f"{PROJECT}_impl") for name in dir(each))
