"""The command line: `loopkit run | curves | rules | explain | plugins`. Nothing here imports torch but `run`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import loopkit
from loopkit.errors import LoopkitError, StopTraining, UsageError, did_you_mean
from loopkit.finding import Severity

if TYPE_CHECKING:
    from loopkit.run import Run

OK, FOUND, UNUSABLE = 0, 1, 2
"""Exit codes: nothing at or above --fail-on; findings; wrong usage or a plugin that cannot load."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result: int = options.command(options)
    except LoopkitError as error:
        print(f"loopkit: {error}", file=sys.stderr)
        return UNUSABLE
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loopkit",
        description="Watch a PyTorch training loop and name its silent bugs by line.",
        epilog="loopkit run train.py   is where to begin.",
    )
    parser.add_argument("--version", action="version", version=f"loopkit {loopkit.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_curves(commands)
    listing = commands.add_parser("rules", help="list what can be found")
    listing.set_defaults(command=_rules)
    explain = commands.add_parser("explain", help="print the page of a rule")
    explain.add_argument("rule", metavar="SLUG")
    explain.set_defaults(command=_explain)
    plugins = commands.add_parser("plugins", help="list installed plugins")
    plugins.set_defaults(command=_plugins)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run a script and watch its training loop",
        description="Run a script unchanged and report what is wrong in its training loop.",
        usage="loopkit run [options] SCRIPT [ARGS...]\n       loopkit run [options] -m MODULE [ARGS...]",
        epilog="exit codes: 0 nothing at or above --fail-on, 1 findings, 2 wrong usage or a plugin that cannot load; "
        "a script that fails keeps its own.",
    )
    run.add_argument("--select", type=_names, metavar="SLUGS", help="report only these rules, by commas")
    run.add_argument("--ignore", type=_names, metavar="SLUGS", default=[], help="do not report these rules")
    run.add_argument("--plugin", action="append", default=[], metavar="MODULE:NAME", help="add a plugin")
    run.add_argument("--no-plugin", action="append", default=[], metavar="NAME", help="leave a plugin or family out")
    run.add_argument("--max-steps", type=int, metavar="N", help="stop after N optimizer steps, report, exit")
    run.add_argument("--format", default="text", metavar="NAME", help="text (default) or json")
    run.add_argument("--tensorboard", type=Path, metavar="DIR", help="write curves, gradients and findings there")
    run.add_argument("--output", type=Path, metavar="FILE", help="also write the report here, in --format")
    run.add_argument(
        "--fail-on", choices=["error", "warning", "never"], default="error", help="what makes the exit code 1"
    )
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module")
    run.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGS...]", help=argparse.SUPPRESS)
    run.set_defaults(command=_run)


def _add_curves(commands: Any) -> None:
    curves = commands.add_parser(
        "curves",
        help="say what learning curves show",
        description="Read the learning curves in a TensorBoard folder or a JSON history: overfitting, underfitting, "
        "erratic, diverging, still falling; since when, and what to try.",
        epilog="exit codes: 0 read, whatever they show; 2 unreadable, or no losses in it.",
    )
    curves.add_argument("log", type=Path, metavar="LOGDIR_OR_JSON")
    curves.add_argument("--format", choices=["text", "json"], default="text", help="how to print (default: text)")
    curves.add_argument("--train", metavar="NAME", help="the training loss, if it is not found by its name")
    curves.add_argument("--val", metavar="NAME", help="the validation loss")
    curves.add_argument(
        "--reference", type=float, metavar="LOSS", help="the loss of a model that has learned nothing, such as ln C"
    )
    curves.set_defaults(command=_curves)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# -- run -------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from loopkit import script

    words = options.module if options.module is not None else options.script
    if not words:
        raise UsageError("name the script to run: loopkit run train.py")
    program = script.find_module(words[0]) if options.module is not None else script.find_script(words[0])
    output = _writable(options.output)
    _known_plugins(options.no_plugin)
    script.set_path(program)
    _existing_plugins(options.plugin)
    from loopkit.watching import Watch

    plugins, skip = _sinks(options.format, output)
    process = os.getpid()
    watching = Watch(
        select=options.select,
        ignore=options.ignore,
        plugins=[*plugins, *_controls(options.max_steps), *_board(options.tensorboard)],
        skip=[*options.no_plugin, *skip],
        program=True,
        wanted=options.plugin,
    )
    interrupted = False
    code = OK
    with watching as run:
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
    return _verdict(run, code, options.fail_on, watching.all_loaded)


def _verdict(run: Run, code: int, fail_on: str, plugins_loaded: bool) -> int:
    """The exit code. The script's own failure stays visible; under torchrun an exit of 1 would restart the job."""
    if code != OK or "TORCHELASTIC_RUN_ID" in os.environ:
        return code
    if not plugins_loaded:
        return UNUSABLE
    worst = run.worst()
    if fail_on != "never" and worst is not None and worst.at_least(Severity(fail_on)):
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
    import importlib.metadata

    from loopkit import ranks
    from loopkit.manager import FORMATS

    formats = {entry.name: entry for entry in importlib.metadata.entry_points(group=FORMATS)}
    if name not in formats:
        raise UsageError(f"unknown format {name!r}{did_you_mean(name, formats)} known: {', '.join(sorted(formats))}")
    if not ranks.leads():
        return [], []
    if name == "text":
        return ([formats[name].load()(output)], ["console"]) if output else ([], [])
    return [formats[name].load()(output)], [] if output else ["console"]


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
    from loopkit.manager import installed

    offers = installed()
    known = {offer.name for offer in offers} | {offer.entry for offer in offers}
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


# -- curves ----------------------------------------------------------------------------------------------


def _curves(options: argparse.Namespace) -> int:
    import json

    from loopkit import curvereport

    judged = curvereport.judged(options.log, train=options.train, val=options.val, reference=options.reference)
    if options.format == "json":
        print(json.dumps(curvereport.to_dict(judged), indent=2))
    else:
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        text = curvereport.to_text(judged, drawn=utf8)
        print(text if utf8 else text.encode("ascii", "replace").decode())
    return OK


# -- rules, explain, plugins -----------------------------------------------------------------------------


def _rules(options: argparse.Namespace) -> int:
    from loopkit.rulebook import rules

    for rule in rules().values():
        print(f"{rule.slug:<28} {rule.family:<12} {rule.severity:<8} {rule.confidence:<10} {rule.summary}")
    return OK


def _explain(options: argparse.Namespace) -> int:
    from loopkit.rulebook import check_slugs, rules

    check_slugs([options.rule])
    rule = rules()[options.rule]
    print(f"{rule.slug}  ({rule.family}, {rule.severity}, {rule.confidence})\n\n{rule.page}")
    return OK


def _plugins(options: argparse.Namespace) -> int:
    from loopkit.manager import Failure, installed

    failures: list[Failure] = []
    for offer in installed(failures):
        print(f"{offer.name:<28} {offer.entry:<12} {offer.distribution:<24} {offer.target}")
    for failure in failures:
        print(f"{failure.plugin:<28} cannot be loaded: {failure.error}")
    return OK
