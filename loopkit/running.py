"""What `loopkit run` does: settings, sinks, the script inside a watch, and the exit code."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopkit import config
from loopkit.baseline import Baseline
from loopkit.config import Config
from loopkit.errors import LoopkitError, StopTraining, UsageError, did_you_mean
from loopkit.finding import Severity

if TYPE_CHECKING:
    from loopkit.run import Run
    from loopkit.script import Program
    from loopkit.watching import Watch

_INTERRUPTED = 130
OK, FOUND, UNUSABLE = 0, 1, 2
"""Exit codes: nothing at or above --fail-on; findings; wrong usage or a plugin that cannot load."""


def run(options: argparse.Namespace) -> int:
    """Run a script, watched; the exit code."""
    from loopkit import script

    words = options.module if options.module is not None else options.script
    if not words:
        raise UsageError("name the script to run: loopkit run train.py")
    if options.update_baseline and options.baseline is None:
        raise UsageError("--update-baseline writes into --baseline FILE: name it")
    program = script.find_module(words[0]) if options.module is not None else script.find_script(words[0])
    settings = _settings(options, program)
    output = _writable(options.output)
    _known_plugins([*options.no_plugin, *settings.no_plugins])
    script.set_path(program)
    wanted = [*options.plugin, *settings.plugins]
    _existing_plugins(wanted)
    process = os.getpid()
    watching = _watch(options, settings, output, [*_beside(options, program), *wanted])
    interrupted = False
    code = OK
    with watching as run:
        run.fail_on = settings.fail_on or "error"
        run.exit_code = lambda: (
            _INTERRUPTED if interrupted else code if options.update_baseline else _verdict(run, code, watching)
        )
        if options.module is not None and program.attributes["__file__"]:
            from loopkit.callsite import CallSites

            run.instrument(CallSites).add_user_folder(os.path.dirname(program.attributes["__file__"]))
        try:
            code = script.run(program, words[1:])
            if code != OK:
                run.ending = "failed"
        except KeyboardInterrupt as error:
            interrupted, run.ending = True, "stopped"
            script.tell(error)
        except StopTraining as request:
            run.ending = "stopped"
            print(f"loopkit: stopped: {request.reason}", file=sys.stderr)
    if os.getpid() != process:
        return code  # a child that the script forked: it ends as the script has it, and has nothing to report
    if interrupted:
        _die_of_interrupt()
    if options.update_baseline:
        _update(options.baseline, run)
        return code
    return _verdict(run, code, watching)


def _settings(options: argparse.Namespace, program: Program) -> Config:
    """What the project has set, with what the command line says before it."""
    if options.config is not None:
        found = config.read(options.config)
    elif options.isolated:
        found = Config()
    else:
        file = program.attributes.get("__file__") if options.module is None else None
        found = config.nearest(Path(file).parent if file and Path(file).is_file() else Path.cwd())
    known = options.baseline if options.baseline is not None else found.baseline
    return dataclasses.replace(
        found,
        select=options.select if options.select is not None else found.select,
        ignore=[*found.ignore, *options.ignore],
        fail_on=options.fail_on or found.fail_on,
        baseline=None if options.update_baseline else known,
    )


def _beside(options: argparse.Namespace, program: Program) -> list[str]:
    """The project's own plugins, which stand beside the script, unless they are to be left out."""
    from loopkit.plugin import beside

    if options.isolated or beside.FILE in options.no_plugin:
        return []
    target = beside.in_folder(program.path)
    return [target] if target is not None else []


def _watch(options: argparse.Namespace, settings: Config, output: Path | None, wanted: list[str]) -> Watch:
    from loopkit.watching import Watch

    plugins, skip = _sinks(options.format, output)
    return Watch(
        select=settings.select,
        ignore=settings.ignore,
        plugins=[*plugins, *_controls(options.max_steps), *_board(options.tensorboard)],
        skip=[*options.no_plugin, *settings.no_plugins, *skip],
        program=True,
        wanted=wanted,
        config=settings,
        probe=options.probe,
        trace=options.trace_plugins,
    )


def _update(path: Path, run: Run) -> None:
    """Make what was found the findings that are known; one process of several writes."""
    from loopkit import ranks

    if ranks.leads():
        count = Baseline(path.absolute().parent).write(path, run.findings)
        print(f"loopkit: {path} now knows {count} finding{'' if count == 1 else 's'}", file=sys.stderr)


def _verdict(run: Run, code: int, watching: Watch) -> int:
    """The exit code. The script's own failure stays visible; under torchrun an exit of 1 would restart the job."""
    if code != OK or "TORCHELASTIC_RUN_ID" in os.environ:
        return code
    if not watching.all_loaded:
        return UNUSABLE
    worst = run.worst()
    if run.fail_on != "never" and worst is not None and worst.at_least(Severity(run.fail_on)):
        return FOUND
    return OK


def _die_of_interrupt() -> None:
    """End as Python does on Ctrl-C: by the signal, so that a shell loop around us stops too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _writable(path: Path | None) -> Path | None:
    """The report's path, absolute: the script may change directory. Refused before the script runs.

    Only one process of several may write the file: None in the others.
    """
    if path is None or os.environ.get("RANK", "0") != "0":
        return None
    path = path.absolute()
    existed = path.exists()
    try:
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UsageError(f"cannot write --output {str(path)!r}: {error.strerror}") from None
    return path


def _sinks(name: str, output: Path | None) -> tuple[list[Any], list[str]]:
    """The sinks `--format` asks for, and what to leave out for them.

    Text always goes to stderr too, unless stderr is where another format goes.
    """
    from loopkit import ranks
    from loopkit.reports import formats

    made = formats.fetch(name)
    if not ranks.leads():
        return [], []
    if name == "text":
        return ([made(output)], ["console"]) if output else ([], [])
    return [made(output)], [] if output else ["console"]


def _controls(max_steps: int | None) -> list[Any]:
    if max_steps is None:
        return []
    from loopkit.manager import fetch

    return [fetch("loopkit_plugins.control.max_steps:MaxSteps")(max_steps)]


def _board(folder: Path | None) -> list[Any]:
    """The sink for TensorBoard, in the one process of several that writes. Refused before the script runs."""
    if folder is None or os.environ.get("RANK", "0") != "0":
        return []
    from loopkit.manager import fetch

    return [fetch("loopkit_plugins.sinks.tensorboard:TensorBoard")(folder)]


def _known_plugins(names: list[str]) -> None:
    from loopkit.plugin.beside import FILE
    from loopkit.plugin.offers import installed

    offers = installed(every=True)
    known = {offer.name for offer in offers} | {offer.entry for offer in offers} | {FILE}
    for name in names:
        if name not in known:
            raise UsageError(f"unknown plugin {name!r}{did_you_mean(name, known)} `loopkit plugins` lists them")


def _existing_plugins(targets: list[str]) -> None:
    """Refuse a `--plugin` that is not there at all, before the script runs."""
    from loopkit.manager import fetch

    for target in targets:
        try:
            fetch(target)
        except LoopkitError:
            raise
        except Exception:  # noqa: BLE001
            pass  # it is there and cannot be imported: named when it is added, and the script runs
