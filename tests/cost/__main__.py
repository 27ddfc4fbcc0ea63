"""`make cost`: what watching costs, all default plugins on: watched over bare, paired in one process, medians.

`python -m tests.cost loops` compares `Loop` with other people's loops instead, `python -m tests.cost pytest` an empty
pytest run with the plugin and without.

Bare and watched measurements alternate, so that a machine whose speed drifts drifts under both. Nothing here is a
test: a clock on a shared machine is no judge. The limits stand beside the figures.
"""

from __future__ import annotations

import datetime
import gc
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable

import torch

import loopkit
from loopkit.manager import fetch
from tests.cost import empty_pytest, loops
from tests.cost.subjects import SUBJECTS, Subject, mlp

_KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
"""For glibc: the buffers of a convolution are else given back and faulted in again at every update or at none, as the
top of the heap lies, which alone made one and the same loop 15 % slower or faster."""


def main() -> None:
    """Measure everything and print one table, in Markdown."""
    if not _KEEPS_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, "-m", "tests.cost", *sys.argv[1:]], os.environ | _KEEPS_MEMORY)
    torch.manual_seed(0)
    wanted = sys.argv[1:]
    if wanted == ["loops"]:
        loops.main(_machine())
        return
    if wanted == ["pytest"]:
        empty_pytest.main(_machine())
        return
    print(f"{datetime.date.today()}, torch {torch.__version__}, Python {platform.python_version()}, {_machine()}\n")
    print("| loop | bare, µs a micro-batch | added, µs | watched ÷ bare | at most | settling in, ms |")
    print("|---|--:|--:|--:|--:|--:|")
    for subject in SUBJECTS:
        if not wanted or subject.name.partition(" ")[0] in wanted:
            bare, added, ratio, settling = measure(subject)
            figures = f"{bare:,.0f} | {added:,.0f} | {ratio:.3f} | {subject.limit} | {settling * 1e3:,.0f}"
            print(f"| {subject.name} | {figures} |", flush=True)
    print(f"\nHeld by loopkit after 200 and after 2,200 steps of (a): {held()} bytes.")
    print(f"Importing loopkit and its plugins after torch: {import_ms():.0f} ms.")


def measure(subject: Subject) -> tuple[float, float, float, float]:
    """Microseconds a micro-batch bare, microseconds added, and watched over bare: medians over all pairs.

    The fourth figure is what the warm-up took beyond the same bare, in seconds: once a run, whatever its length.
    """
    run, count = subject.make(), subject.micro_batches
    bare, added, ratios, settling = [], [], [], []
    for pair in range(subject.pairs):
        if pair % 2:  # who goes first takes turns: a shared machine is faster after a pause
            (warm, two), (before, one) = _watched(run, subject), _both(run, subject)
        else:
            (before, one), (warm, two) = _both(run, subject), _watched(run, subject)
        bare.append(one / count * 1e6)
        added.append((two - one) / count * 1e6)
        ratios.append(two / one)
        settling.append(warm - before)
    return statistics.median(bare), statistics.median(added), statistics.median(ratios), statistics.median(settling)


def _watched(run: Callable[[int], None], subject: Subject) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        plugins = [fetch(subject.plugin)(folder)] if subject.plugin else []
        with loopkit.watch(skip=["console"], plugins=plugins) as watched:
            seconds = _both(run, subject)
    assert watched.worst() in (None, loopkit.Severity.INFO), watched.findings
    assert not watched.failures
    return seconds


def _both(run: Callable[[int], None], subject: Subject) -> list[float]:
    """Seconds of the warm-up and of what is measured, bare too: sustained work alone makes a loop some 4 % slower.

    The first updates are new to loopkit, told to every check and timed. Both are called from one line: what comes
    from another is another loop to loopkit, and would be new again.
    """
    return [_seconds(run, micro_batches) for micro_batches in (subject.warm_up, subject.micro_batches)]


def _seconds(run: Callable[[int], None], count: int) -> float:
    gc.collect()
    began = time.perf_counter()
    run(count)
    return time.perf_counter() - began


def held() -> str:
    """Bytes that loopkit's code has allocated and not freed."""
    run = mlp()
    ours = [tracemalloc.Filter(True, f"*/{name}/*") for name in ("loopkit", "loopkit_plugins", "pluggy")]
    sizes = []
    with loopkit.watch(skip=["console"]):
        tracemalloc.start()
        for steps in (200, 2000):
            run(steps)
            gc.collect()
            snapshot = tracemalloc.take_snapshot().filter_traces(ours)
            sizes.append(sum(row.size for row in snapshot.statistics("filename")))
        tracemalloc.stop()
    return " and ".join(f"{size:,}" for size in sizes)


def import_ms() -> float:
    """Milliseconds that a fresh process spends on importing us, torch being there."""
    code = (
        "import time, torch, torch.utils.data, importlib.metadata\nbegan = time.perf_counter()\n"
        "import loopkit\nwith loopkit.watch():\n    print((time.perf_counter() - began) * 1e3)"
    )
    seen = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)
    ]
    return statistics.median(float(done.stdout) for done in seen)


def _machine() -> str:
    return f"{platform.machine()}, {torch.get_num_threads()} threads, CPU"


if __name__ == "__main__":
    main()
