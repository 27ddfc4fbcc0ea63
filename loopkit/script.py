"""Run a script or module as `python SCRIPT` or `python -m MODULE` would, so that it cannot tell the difference."""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import io
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import Any

from loopkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: how it will be known in `sys.argv[0]`, and how to get its code.

    Args:
        name: `sys.argv[0]`.
        path: what stands first on `sys.path`; None to leave it out.
        load: compiles it; a `SyntaxError` here is the script's own.
        attributes: what its `__main__` module is born with.
    """

    name: str
    path: str | None
    load: Callable[[], CodeType]
    attributes: dict[str, Any]


def find_script(script: str) -> Program:
    """A script file, or a folder or zip with a `__main__.py`.

    Raises:
        UsageError: it cannot be read.
    """
    if os.path.isdir(script) or script.endswith((".zip", ".pyz")):
        return _find_archive(script)
    path = os.path.abspath(script)
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        raise UsageError(f"cannot open {script!r}: {error.strerror}") from None

    def load() -> CodeType:
        return compile(source, path, "exec", dont_inherit=True)

    loader = importlib.machinery.SourceFileLoader("__main__", path)
    attributes = {"__file__": path, "__loader__": loader, "__package__": None, "__spec__": None, "__cached__": None}
    return Program(script, os.path.dirname(os.path.realpath(script)), load, attributes)


def _find_archive(path: str) -> Program:
    sys.path.insert(0, path)
    sys.path_importer_cache.pop(path, None)
    spec = importlib.machinery.PathFinder.find_spec("__main__", [path])
    del sys.path[0]
    if spec is None:
        raise UsageError(f"cannot run {path!r}: it holds no __main__.py")
    return _from_spec(spec, name=path, path=path)


def find_module(name: str) -> Program:
    """A module, or a package's `__main__`.

    Raises:
        UsageError: there is none of that name, or it is not Python code.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        raise UsageError(f"cannot run module {name!r}: {error}") from None
    finally:
        sys.path.remove(here)
    if spec is None:
        raise UsageError(f"cannot run module {name!r}: there is none of that name")
    return _from_spec(spec, name=spec.origin or name, path=here)


def _from_spec(spec: importlib.machinery.ModuleSpec, *, name: str, path: str) -> Program:
    loader = spec.loader
    get_code = getattr(loader, "get_code", None)
    if get_code is None:
        raise UsageError(f"cannot run {name!r}: it is not Python code")

    def load() -> CodeType:
        code: CodeType | None = get_code(spec.name)
        if code is None:
            raise UsageError(f"cannot run {name!r}: no code object for it")
        return code

    attributes = {
        "__file__": spec.origin,
        "__loader__": loader,
        "__package__": spec.parent,
        "__spec__": spec,
        "__cached__": spec.cached,
    }
    return Program(name, path, load, attributes)


def set_path(program: Program) -> None:
    """Put first on `sys.path` what `python` would: plugins may lie beside the script."""
    if program.path is not None and not sys.flags.safe_path:
        sys.path[0] = program.path


def run(program: Program, arguments: list[str]) -> int:
    """Run it in this process, as `__main__`, and give the exit code `python` would.

    Its uncaught exception goes to `sys.excepthook`, without our frames.

    Raises:
        KeyboardInterrupt: it was interrupted and did not catch it.
        StopTraining: a plugin ended it.
    """
    module = types.ModuleType("__main__")
    module.__dict__.update(program.attributes, __builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = module
    sys.argv = [program.name, *arguments]
    try:
        exec(program.load(), module.__dict__)  # noqa: S102 - this is what it is for
    except SystemExit as leaving:
        return _exit_code(leaving)
    except Exception as error:  # noqa: BLE001
        tell(error)
        return 1
    return 0


def tell(error: BaseException) -> None:
    """Hand an uncaught exception to the script's `sys.excepthook`, without our frames."""
    _flush(sys.stdout)
    # The default hook shows the exception's own traceback, whatever it is given.
    error.__traceback__ = _without_our_frames(error.__traceback__)
    sys.excepthook(type(error), error, error.__traceback__)


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the script's first frame on; none at all when it did not compile."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    frame = traceback
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.tb_next
    return traceback if frame is not None else None


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF
    _flush(sys.stdout)
    print(leaving.code, file=sys.stderr)
    return 1


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except (AttributeError, OSError, ValueError):
        pass  # a closed pipe is the script's affair; the interpreter reports it at exit
