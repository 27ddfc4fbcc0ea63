"""What `loopkit trace` does: the script inside a watch that hears every event, the picture, and the comparison."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from loopkit.errors import UsageError
from loopkit.trace import diff, picture
from loopkit.trace.recorded import Trace, read

if TYPE_CHECKING:
    from loopkit.watching import Watch

SAME, DIFFERENT = 0, 1
"""Exit codes of `--diff`; 2 where a file cannot be read."""


def trace(options: argparse.Namespace) -> int:
    """Trace a script, or compare two traces; the exit code."""
    if options.diff is not None:
        if options.script or options.module:
            raise UsageError("--diff compares two files that were recorded, and runs no script: leave SCRIPT out")
        return _compare(options.diff[0], options.diff[1], options)
    return _run(options)


def _compare(first: Path, second: Path, options: argparse.Namespace) -> int:
    compared = diff.compare(read(first), read(second))
    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    text = diff.told(compared, names) + "\n"
    form = compared.to_json() if options.format == "json" else text
    if options.output is not None:
        _write(options.output, form)
    shown = text if options.output is not None else form
    sys.stdout.write(shown if _speaks_utf8(sys.stdout) else picture.plain(shown))
    return DIFFERENT if compared.differs else SAME


def _run(options: argparse.Namespace) -> int:
    from loopkit import ranks, running
    from loopkit.manager import fetch

    words = options.module if options.module is not None else options.script
    if not words:
        raise UsageError("name the script to trace: loopkit trace train.py")
    program = running.found(words[0], module=options.module is not None)
    output = running.writable(options.output)
    running.prepare(program)
    tracer = fetch("loopkit_plugins.sinks.trace:Tracer")()
    watching = _watch(tracer, options.max_steps)
    ended = running.watched(watching, program, words[1:], module=options.module is not None)
    if not ended.ours:
        return ended.code
    if ranks.leads():
        _show(tracer.trace(ended.run, os.path.basename(words[0])), options.format, output)
    ended.die_if_interrupted()
    return ended.code


def _watch(tracer: Any, max_steps: int | None) -> Watch:
    from loopkit.running import controls
    from loopkit.watching import Watch

    return Watch(plugins=[tracer, *controls(max_steps)], autoload=False, program=True)


def _show(traced: Trace, form: str, output: Path | None) -> None:
    """The picture goes to stderr, and what was asked for to the file: the script's own stdout is left alone."""
    text = traced.to_json() if form == "json" else picture.drawn(traced) + "\n"
    if output is not None:
        _write(output, text)
    if output is None and form == "json":
        print(text, end="", file=sys.stderr, flush=True)
    else:
        colour = not os.environ.get("NO_COLOR") and hasattr(sys.stderr, "isatty") and sys.stderr.isatty()
        drawn = picture.drawn(traced, colour=colour, utf8=_speaks_utf8(sys.stderr))
        print(f"\n{drawn}", file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"cannot write --output {str(path)!r}: {error.strerror}") from None


def _speaks_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "") == "utf8"
