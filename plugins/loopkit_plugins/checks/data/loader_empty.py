"""A loader has no batch at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from loopkit import Confidence, Feed, Finding, Place, Run, Severity, hookimpl


class LoaderEmpty:
    """A loop over a DataLoader has no batch, from the first epoch on: its body is never run.

    What it looks for
        A pass over a DataLoader that ends without a batch, none having had one before. With `drop_last=True` and
        fewer samples than a batch holds it is a warning; in a run that executes no optimizer step, an error.
        Otherwise it is only said (info).

    Why that hurts
        What is not run cannot fail: the script ends well, with a model that was never trained or never tested.

    A loop that has it
        loader = DataLoader(dataset, batch_size=512, drop_last=True)  # of 400 samples
        for x, y in loader:
            train_step(x, y)

    The repair
        A smaller batch, or `drop_last=False`; if the dataset itself is empty, look at how it was filtered or split.

    Left alone
        Loaders that had a batch in some pass; runs in which nothing was asked for a batch.

    What it costs
        Nothing but at the end of a pass.
    """

    rule = "loader-empty"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._empty: dict[Place, _Empty] = {}

    @hookimpl
    def loader_exhausted(self, run: Run, loader: Any, feed: Feed) -> None:
        """Note a pass without a batch; what harm it does is known when the run ends."""
        if feed.batches or feed.most or feed.ends > 1 or run.loop is not None:
            return
        known = self._empty.get(feed.site.place)
        count = 1 if known is None else known.passes + 1
        self._empty[feed.site.place] = _Empty(count, *_why(loader))

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Report, by the harm that was done."""
        for place, empty in self._empty.items():
            nothing = not run.steps_by_process()
            severity = Severity.ERROR if nothing else Severity.WARNING if empty.dropped else Severity.INFO
            yield Finding(
                rule=self.rule,
                severity=severity,
                confidence=self.confidence,
                place=place,
                seen=f"a DataLoader was empty: it had no batch in {_passes(empty.passes)}{empty.why}",
                why="the body of the loop is never run"
                + ("; in the whole run no optimizer step was executed" if nothing else ""),
                remedy="use a smaller batch_size or drop_last=False"
                if empty.dropped
                else "look at how its dataset was made, filtered or split",
                evidence={"passes": empty.passes, "samples": empty.samples, "batch_size": empty.size},
            )


class _Empty(NamedTuple):
    passes: int
    why: str
    dropped: bool
    samples: int | None
    size: int | None


def _why(loader: Any) -> tuple[str, bool, int | None, int | None]:
    """Why a loader is empty, whether `drop_last` is the reason, samples and batch size."""
    sampler = getattr(loader, "batch_sampler", None)
    size = getattr(sampler, "batch_size", None)
    try:
        samples = len(sampler.sampler) if sampler is not None else len(loader.sampler)
    except Exception:  # noqa: BLE001 - samplers are the user's code, and many have no length
        return "", False, None, size if isinstance(size, int) else None
    if samples and isinstance(size, int) and getattr(sampler, "drop_last", False) and samples < size:
        seen = f": batch_size={size} with drop_last=True drops all of its {samples} samples"
        return seen, True, samples, size
    return (": it has no samples" if not samples else ""), False, samples, size if isinstance(size, int) else None


def _passes(count: int) -> str:
    return "its only pass" if count == 1 else f"any of {count} passes"
