"""Which of the names in somebody's log are training loss, validation loss, a metric, the learning rate.

A name is split into words, at anything that is no letter or digit. Words that say whose it is (train, val, eval,
test) and words that say nothing (epoch, step, total) are taken off; what is left names the quantity. Two names with
the same rest and different sides are a pair: `train/loss` and `eval/loss`, `train_loss_epoch` and `val_loss`,
`Loss/train` and `Loss/test`, `train/box_loss` and `val/box_loss`; also `epoch_loss` in sub-runs `train` and
`validation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from loopkit.curvefit import Point

Series = list[Point]
Runs = dict[str, dict[str, Series]]
"""What a log holds: series by name, by run; the run at the top is called "."."""

_TRAINING = {"train", "training", "tr"}
_HELD_OUT = {"val", "valid", "validation", "eval", "evaluation", "test", "testing", "dev"}
_EMPTY = {"epoch", "epochs", "step", "steps", "total", "mean", "avg", "average", "batch", "running", "iter"}
_GAMES = {
    "d",
    "g",
    "dis",
    "disc",
    "gen",
    "discriminator",
    "generator",
    "adv",
    "policy",
    "value",
    "actor",
    "critic",
    "entropy",
    "kl",
    "reward",
}
"""Parts of games and of reinforcement learning: there a loss that does not fall says nothing."""
_BETTER_HIGH = {
    "accuracy",
    "acc",
    "f1",
    "auc",
    "auroc",
    "precision",
    "recall",
    "map",
    "iou",
    "miou",
    "dice",
    "bleu",
    "rouge1",
    "rougel",
    "matthews",
    "psnr",
    "ssim",
    "r2",
}
_BETTER_LOW = {"perplexity", "ppl", "error", "err", "rmse", "mse", "mae", "wer", "cer", "fid"}


@dataclass(frozen=True, slots=True)
class Metric:
    """A validation metric: its name in the log, its series, and which way it is better ("min" or "max")."""

    tag: str
    series: Series
    mode: str


@dataclass(frozen=True, slots=True)
class CurvePair:
    """What belongs together in a run's log; a side that is not there has an empty name and an empty series.

    Args:
        run: which, as a path below the log's folder.
        train_tag, train: name and series of the training loss.
        val_tag, val: of the validation loss.
        rates: (step, learning rate).
        metrics: validation metrics of known direction.
    """

    run: str
    train_tag: str = ""
    train: Series = field(default_factory=list)
    val_tag: str = ""
    val: Series = field(default_factory=list)
    rates: Series = field(default_factory=list)
    metrics: tuple[Metric, ...] = ()


def pairs(runs: Runs) -> list[CurvePair]:
    """The losses of each run, in pairs where they are; runs without any are left out."""
    found: list[CurvePair] = []
    for run, series in sorted(_joined(runs).items()):
        stems: dict[tuple[str, ...], dict[str, str]] = {}
        for tag in sorted(series, key=lambda tag: (_is_summed(tag, series[tag]), len(series[tag]), tag)):
            side, stem = _read(tag)
            if series[tag] and any(word.endswith("loss") for word in stem) and not _GAMES & set(stem):
                stems.setdefault(stem, {})[side] = tag  # the one with most points comes last, and stays
        rates, metrics = _rates(series), _metrics(series)
        for stem, sides in sorted(stems.items(), key=lambda item: (len(item[0]), item[0])):
            train, val = sides.get("train", sides.get("", "")), sides.get("val", "")
            own = metrics if stem == min(stems, key=len) else ()
            found.append(CurvePair(run, train, series.get(train, []), val, series.get(val, []), rates, own))
    return found


def _joined(runs: Runs) -> Runs:
    """Sub-runs that are one side of a run (`train`, `validation`, `Loss_train`) go into the run they lie in."""
    joined: Runs = {}
    for run, series in runs.items():
        parent, _, last = run.rpartition("/")
        words = set(_words(last))
        is_side = bool(words & (_TRAINING | _HELD_OUT)) and words <= _TRAINING | _HELD_OUT | _EMPTY | {"loss"}
        side = next(iter(sorted(words & (_TRAINING | _HELD_OUT))), "")
        for tag, points in series.items():
            name = f"{side}/{tag}" if is_side and not _read(tag)[0] else tag
            joined.setdefault((parent or ".") if is_side else run, {}).setdefault(name, []).extend(points)
    return joined


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])", name)]


def _read(tag: str) -> tuple[str, tuple[str, ...]]:
    """The side of a name, and what it names."""
    words = _words(tag)
    side = "val" if _HELD_OUT & set(words) else "train" if _TRAINING & set(words) else ""
    stem = tuple(sorted({w for w in words if w not in _TRAINING | _HELD_OUT | _EMPTY}))
    return side, stem


def _is_summed(tag: str, points: Series) -> int:
    """How good a curve this is: an average over an epoch, if there are enough of them, before single batches."""
    words = set(_words(tag))
    return 1 if "epoch" in words and len(points) >= 5 else 0


def _rates(series: Mapping[str, Series]) -> Series:
    named = [tag for tag in series if {"lr"} & set(_words(tag)) or {"learning", "rate"} <= set(_words(tag))]
    return max((series[tag] for tag in sorted(named)), key=len, default=[])


def _metrics(series: Mapping[str, Series]) -> tuple[Metric, ...]:
    found = []
    for tag in sorted(series):
        side, stem = _read(tag)
        if side == "val" and len(stem) == 1 and stem[0] in _BETTER_HIGH | _BETTER_LOW:
            found.append(Metric(tag, series[tag], "max" if stem[0] in _BETTER_HIGH else "min"))
    return tuple(found)
