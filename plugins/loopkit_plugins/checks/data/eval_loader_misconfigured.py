"""A loader for evaluation leaves samples out, or augments them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, Subset

from loopkit import Confidence, Feed, Finding, Run, Severity, Site, hookimpl

_MUCH = 0.05
"""The share of samples left out from which on it is more than a remark."""
_AUGMENTS = ("AugMix", "AutoAugment", "ColorJitter", "RandAugment", "Random", "TrivialAugment")
_DEEPEST = 4


class EvalLoaderMisconfigured:
    """Evaluation does not measure what it seems to: samples are left out, or augmented at random.

    What it looks for
        A loader that is only ever evaluated on, with `drop_last=True` and a last batch that is dropped; or whose
        samples pass through transforms with "Random" in their name, as those of a dataset that was split at random
        and is shared with training.

    Why that hurts
        The score is that of other data than one thinks: not comparable between batch sizes, noisy, or too low.

    A loop that has it
        train, test = random_split(ImageFolder("all", transform=augment), [0.9, 0.1])
        test_loader = DataLoader(test, batch_size=64, drop_last=True)

    The repair
        `drop_last=False`; a dataset object of its own for evaluation, with transforms that are not random.

    Left alone
        Loaders that also train; batches that come out even; a share of dropped samples below a twentieth, which is
        only said (info); shuffling.

    What it costs
        A look at the loader when a pass ends.
    """

    rule = "eval-loader-misconfigured"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, Finding]] = {}

    @hookimpl
    def loader_exhausted(self, run: Run, loader: Any, feed: Feed) -> None:
        """Look at a loader that was evaluated on; whether it also trains is known when the run ends."""
        if feed.trained or feed.before is not None:
            self._seen.pop(id(loader), None)
        elif feed.evaluated and feed.ordinal == 1 and loader is not None:
            found = self._dropped(loader, feed.site) or self._augmented(loader, feed.site)
            if found is not None:
                self._seen[id(loader)] = feed.loader, found

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Report, if anything was trained."""
        if run.steps:
            for _, finding in self._seen.values():
                yield finding

    def _dropped(self, loader: Any, site: Site) -> Finding | None:
        sampler = getattr(loader, "batch_sampler", None)
        if type(sampler) is not BatchSampler or not sampler.drop_last:
            return None
        try:
            samples = len(sampler.sampler)  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - samplers are the user's code, and many have no length
            return None
        left = samples % sampler.batch_size
        if not left or samples < sampler.batch_size:
            return None
        severity = Severity.WARNING if left >= _MUCH * samples else Severity.INFO
        return self._finding(
            site,
            f"{left} of {samples} samples are never evaluated: drop_last=True drops the last batch of "
            f"{sampler.batch_size}",
            "drop_last=False for evaluation",
            {"left_out": left, "samples": samples},
            severity,
        )

    def _augmented(self, loader: Any, site: Site) -> Finding | None:
        dataset = loader.dataset
        shared = isinstance(dataset, Subset)
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        name = _random(getattr(dataset, "transform", None)) or _random(getattr(dataset, "transforms", None))
        if not name or not shared:
            return None
        return self._finding(
            site,
            f"samples are augmented with {name} before they are evaluated: this subset shares its dataset, a "
            f"{type(dataset).__name__}, with training",
            "a dataset object of its own for evaluation, with transforms that are not random",
            {"transform": name},
        )

    def _finding(
        self, site: Site, seen: str, remedy: str, evidence: dict[str, Any], severity: Severity = Severity.WARNING
    ) -> Finding:
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=site.place,
            seen=seen,
            why="the score is that of other data than one thinks",
            remedy=remedy,
            evidence=evidence,
        )


def _random(transform: Any, depth: int = 0) -> str:
    """The name of the first random transform in this one; "" for none."""
    if transform is None or depth > _DEEPEST:
        return ""
    name = type(transform).__name__
    if name.startswith(_AUGMENTS):
        return name
    inside = transform if isinstance(transform, (list, tuple)) else getattr(transform, "transforms", ())
    parts = inside if isinstance(inside, (list, tuple)) else ()
    return next((found for each in parts if (found := _random(each, depth + 1))), "")
