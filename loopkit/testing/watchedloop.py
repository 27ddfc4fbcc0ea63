"""Running a loop under a watch of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, Unpack

from loopkit.errors import LoopkitError, PluginError
from loopkit.finding import Finding
from loopkit.run import Run
from loopkit.watching import apart, watch


class Options(TypedDict, total=False):
    """What `loopkit.watch` may be told."""

    select: Iterable[str] | None
    ignore: Iterable[str]
    plugins: Sequence[Any]
    autoload: bool
    skip: Iterable[str]
    probe: bool


def watch_loop(loop: Callable[[], object], **options: Unpack[Options]) -> list[Finding]:
    """Run a function under a watch and give its findings, those of the end of the run too.

    The run is its own, also inside a watch that is open: what is found here is found nowhere else, and not printed.

    Args:
        loop: trains; what it returns is dropped, what it raises passes.
        options: as `loopkit.watch` takes them; `plugins=[MyCheck], autoload=False` hears `MyCheck` alone.

    Raises:
        PluginError: a plugin raised, which in a test must not go unseen.
    """
    return run_of(loop, **options).findings


def run_of(loop: Callable[[], object], **options: Unpack[Options]) -> Run:
    """The run of `watch_loop`, closed.

    Raises:
        PluginError: a plugin raised.
        LoopkitError: loopkit itself failed, and stopped watching.
    """
    options["skip"] = ["console", *options.get("skip", ())]
    with apart(), watch(**options) as run:
        loop()
    if run.failures:
        failure = run.failures[0]
        raise PluginError(f"plugin {failure.plugin} failed ({failure.when}): {failure.error}")
    for rule, why in run.notes():
        if rule == "*" and why.startswith("loopkit failed"):
            raise LoopkitError(f"{why}; report this as a bug of loopkit")
    return run
