"""The command line: `loopkit run | trace | report | curves | rules | …`. Only the first two import torch."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import loopkit
from loopkit.config import FAIL_ON
from loopkit.errors import LoopkitError, UsageError

OK, UNUSABLE = 0, 2
"""Exit codes: all went well; wrong usage. `loopkit run` has more."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result: int = options.command(options)
        sys.stdout.flush()
    except LoopkitError as error:
        print(f"loopkit: {error}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:  # `loopkit rules | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
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
    _add_trace(commands)
    _add_report(commands)
    _add_curves(commands)
    listing = commands.add_parser("rules", help="list what can be found")
    listing.add_argument("--format", choices=["text", "json"], default="text", help="how to print (default: text)")
    listing.set_defaults(command=_rules)
    explain = commands.add_parser("explain", help="print the page of a rule")
    explain.add_argument("rule", metavar="SLUG")
    explain.set_defaults(command=_explain)
    plugins = commands.add_parser(
        "plugins",
        help="list plugins, and why one cannot be loaded",
        description="List the plugins that are installed, or stand in ./loopkit_plugins.py, with their state.",
    )
    plugins.add_argument("--format", choices=["text", "json"], default="text", help="how to print (default: text)")
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
    run.add_argument(
        "--probe", action="store_true", help="also try the model on copies: extra forwards and backwards"
    )
    run.add_argument("--max-steps", type=int, metavar="N", help="stop after N optimizer steps, report, exit")
    run.add_argument("--trace-plugins", action="store_true", help="print each call of a plugin's hook to stderr")
    run.add_argument("--format", default="text", metavar="NAME", help="text (default), json, sarif, github or junit")
    run.add_argument("--tensorboard", type=Path, metavar="DIR", help="write curves, gradients and findings there")
    run.add_argument("--output", type=Path, metavar="FILE", help="also write the report here, in --format")
    run.add_argument("--fail-on", choices=FAIL_ON, help="what makes the exit code 1 (default: error)")
    run.add_argument("--baseline", type=Path, metavar="FILE", help="do not report the findings that this file knows")
    run.add_argument("--update-baseline", action="store_true", help="write what is found now into --baseline, exit 0")
    settings = run.add_mutually_exclusive_group()
    settings.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: the nearest pyproject.toml)"
    )
    settings.add_argument("--isolated", action="store_true", help="read no settings")
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module")
    run.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGS...]", help=argparse.SUPPRESS)
    run.set_defaults(command=_run)


def _add_trace(commands: Any) -> None:
    trace = commands.add_parser(
        "trace",
        help="show what a loop really does, update by update",
        description="Run a script unchanged and show what an update consists of, event by event: which lines, how "
        "often, how long, and which updates were otherwise.",
        usage="loopkit trace [options] SCRIPT [ARGS...]\n       loopkit trace [options] -m MODULE [ARGS...]\n"
        "       loopkit trace [options] --diff A.json B.json",
        epilog="exit codes: 0, or the script's own; with --diff 0 the same, 1 different; 2 wrong usage.",
    )
    trace.add_argument("--max-steps", type=int, metavar="N", help="stop after N optimizer steps")
    trace.add_argument("--format", choices=["text", "json"], default="text", help="how to tell it (default: text)")
    trace.add_argument("--output", type=Path, metavar="FILE", help="also write it here, in --format")
    trace.add_argument(
        "--diff", type=Path, nargs=2, metavar=("A", "B"), help="compare two traces that --format json has written"
    )
    trace.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="trace a module")
    trace.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGS...]", help=argparse.SUPPRESS)
    trace.set_defaults(command=_trace)


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="turn a saved JSON report into another format",
        description="Turn what `loopkit run --format json --output FILE` wrote into another format.",
        epilog="exit codes: 0 written, whatever was found; 2 unreadable, no report, or one of a newer loopkit.",
    )
    report.add_argument("report", type=Path, metavar="FILE")
    report.add_argument("--format", default="text", metavar="NAME", help="text (default), sarif, github, junit, json")
    report.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to stdout")
    report.set_defaults(command=_report)


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


def _run(options: argparse.Namespace) -> int:
    from loopkit.running import run

    return run(options)


def _trace(options: argparse.Namespace) -> int:
    from loopkit.tracing import trace

    return trace(options)


# -- report ----------------------------------------------------------------------------------------------


def _report(options: argparse.Namespace) -> int:
    from loopkit.reports import formats, saved

    text = formats.text(saved.read(options.report), options.format).rstrip("\n") + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        try:
            options.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write --output {str(options.output)!r}: {error.strerror}") from None
    return OK


# -- curves ----------------------------------------------------------------------------------------------


def _curves(options: argparse.Namespace) -> int:
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
    from loopkit.config import nearest
    from loopkit.rulebook import rules
    from loopkit.silence import Filter

    settings = nearest(Path.cwd())
    shown = Filter.of(settings.select, settings.ignore)
    rows = [("rule", "family", "severity", "confidence", "state", "cost", "what it finds")]
    for rule in rules().values():
        state = "off" if shown.reason(rule.slug) else "--probe" if rule.asked_for else "on"
        rows.append((rule.slug, rule.family, rule.severity, rule.confidence, state, rule.cost, rule.summary))
    if options.format == "json":
        named = [dict(zip((*rows[0][:-1], "summary"), row, strict=True)) for row in rows[1:]]
        print(json.dumps(named, indent=2))
        return OK
    wide = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        print("  ".join([f"{cell:<{width}}" for cell, width in zip(row, wide, strict=False)] + [row[-1]]).rstrip())
    return OK


def _explain(options: argparse.Namespace) -> int:
    from loopkit.rulebook import check_slugs, rules

    check_slugs([options.rule])
    rule = rules()[options.rule]
    print(f"{rule.slug}  ({rule.family}, {rule.severity}, {rule.confidence})\n\n{rule.page}")
    return OK


def _plugins(options: argparse.Namespace) -> int:
    from loopkit import pluginlist

    listed = pluginlist.listed()
    print(
        json.dumps([each.to_dict() for each in listed], indent=2)
        if options.format == "json"
        else pluginlist.text(listed)
    )
    return OK
