"""The model is trained on the batches that it is evaluated on."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from loopkit import Confidence, Feed, Finding, Ledger, Models, Place, Run, Severity, Site, code_of, hookimpl

_PASSES = 512
_OPEN = 16
_FRAMES = 4
_EVALUATES = {"val", "valid", "validation", "validate", "eval", "evaluate", "evaluation", "dev", "test", "holdout"}
_TRAINS = {"train", "training", "trn", "fit"}


class BackwardOnEvalBatch:
    """Gradients of evaluation batches move the weights: the validation loop trains.

    What it looks for
        An optimizer that steps in whole passes over one loader also steps in whole passes over another one, which
        the script has for evaluation: it is called `val_loader` or the like, or the model is in evaluation mode in
        these passes and in training mode in the others. A name and the mode together are an error; one of them is a
        warning if it is evaluated too, or if the mode changes with each pass; else info.

    Why that hurts
        The model learns the answers it is asked for: what is measured is not how it does on new data, and the best
        epoch, the stopping and the model are chosen by it. Nothing fails, and the score is better than ever.

    A loop that has it
        model.eval()
        for x, y in val_loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()

    The repair
        Evaluate under `torch.no_grad()`; leave `backward()` and `step()` to the training loop.

    Left alone
        Passes that go side by side, as labelled and unlabelled batches, or the two levels of a search; another
        optimizer, as for calibration, test-time training and the query sets of meta-learning; batches that are
        adapted to and evaluated in one pass; training data that is evaluated, or pseudo-labelled, as well; several
        loaders that train alike. A last training on all data shows as info where its loader is called so.

    What it costs
        A look when a pass over a loader begins and ends; the script is read when the run ends.
    """

    rule = "backward-on-eval-batch"
    severity = Severity.ERROR
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._passes: list[_Pass] = []

    @hookimpl
    def loader_started(self, feed: Feed) -> None:
        """Note how far other passes have come."""
        for each in self._open:
            each.others = [*each.others[1 - _OPEN :], (feed, 0)]
        others = [(each.feed, each.feed.handed_out()) for each in self._open]
        self._open = [*self._open[1 - _OPEN :], _Open(feed, others)]

    @hookimpl
    def loader_exhausted(self, run: Run, loader: Any, feed: Feed) -> None:
        """Note who stepped in the pass, and in which mode."""
        opened = next((each for each in self._open if each.feed is feed), None)
        self._open = [each for each in self._open if each.feed is not feed]
        if opened is None or loader is None:
            return
        if feed.evaluated:
            for each in self._passes:
                each.measured = each.measured or each.loader() is loader
        stepped = feed.stepped() if feed.trained else []
        if not stepped or len(self._passes) >= _PASSES:
            return
        owner = stepped[0]
        backward = run.instrument(Ledger).last_backward()
        chain = _chain(feed.site.place, backward)
        roots = run.instrument(Models).roots()
        self._passes.append(
            _Pass(
                feed.loader,
                (chain, id(getattr(loader, "dataset", loader))),
                frozenset(id(each) for each in stepped),
                chain,
                backward.place if backward is not None else feed.site.place,
                asleep=bool(roots) and not any(each.training for each in roots),
                beside=feed.evaluated
                or any(other.trained and other.handed_out() > count for other, count in opened.others),
                label=owner.label,
            )
        )

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Compare the loaders that trained."""
        rows: dict[Any, _Row] = {}
        for at, each in enumerate(self._passes):
            rows.setdefault(each.key, _Row([], [])).add(at, each)
        found: set[tuple[Place, ...]] = set()
        for row in rows.values():
            for other in rows.values():
                severity, how = _judged(row, other)
                if severity is not None and row.passes[-1].chain not in found:
                    found.add(row.passes[-1].chain)
                    yield self._finding(row, other, severity, how)

    def _finding(self, row: _Row, other: _Row, severity: Severity, how: str) -> Finding:
        last, training = row.passes[-1], other.passes[-1]
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=last.backward if last.backward != training.backward else _parting(last, training),
            places={"loader": last.chain[0], "trained": training.chain[0], "backward": last.backward},
            subject=last.label,
            seen=f"{last.label}, which trains on the batches of {_parting(training, last)}, steps on those of "
            f"{_parting(last, training)} too, in {_times(len(row.passes))}; {how}",
            why="the model learns what it is to be measured by: the score is not how it does on new data",
            remedy="evaluate under torch.no_grad(), without backward() and step()",
            evidence={
                "passes": len(row.passes),
                "evaluated": row.measured,
                "eval_mode": row.is_asleep,
                "loader_frames": [str(each) for each in last.chain],
            },
        )


@dataclass
class _Open:
    """A pass that goes on, and how many batches others had handed out when both had begun."""

    feed: Feed
    others: list[tuple[Feed, int]]


@dataclass
class _Pass:
    """A whole pass over a loader in which an optimizer stepped.

    Args:
        loader: weakly.
        key: tells the loader from others: the chain, and its dataset.
        steppers: the optimizers, by the `id` of what the ledger has of them.
        chain: where its batches are asked for, and the calls that led there.
        backward: where the last one was.
        asleep: all models were in evaluation mode at its end.
        beside: another pass went on meanwhile, or its batches were evaluated in it too.
        label: of the optimizer.
        measured: the loader was evaluated in a later pass.
    """

    loader: Callable[[], Any]
    key: tuple[tuple[Place, ...], int]
    steppers: frozenset[int]
    chain: tuple[Place, ...]
    backward: Place
    asleep: bool
    beside: bool
    label: str
    measured: bool = False


@dataclass
class _Row:
    """All passes over one loader, each with its position among all."""

    at: list[int]
    passes: list[_Pass]

    def add(self, at: int, each: _Pass) -> None:
        """One more."""
        self.at.append(at)
        self.passes.append(each)

    @property
    def measured(self) -> bool:
        """Whether it was evaluated after it was trained on."""
        return any(each.measured for each in self.passes)

    @property
    def is_asleep(self) -> bool:
        """Whether the model was in evaluation mode each time."""
        return all(each.asleep for each in self.passes)

    def alternates(self, other: _Row) -> bool:
        """Whether passes over the other come before each of these, and there are several."""
        pairs = [any(before < at for before in other.at) for at in self.at]
        between = [at for at in other.at if self.at[0] < at < self.at[-1]]
        return len(self.at) > 1 and all(pairs) and bool(between)


def _judged(row: _Row, other: _Row) -> tuple[Severity | None, str]:
    """How severe it is that one loader trains beside another, and what shows that it is not meant to."""
    if row is other or any(each.beside for each in row.passes):
        return None, ""
    if other.at[0] > row.at[0] or not any(
        one.steppers & each.steppers for one in row.passes for each in other.passes
    ):
        return None, ""
    asleep = row.is_asleep and not any(each.asleep for each in other.passes)
    mode = "the model is in evaluation mode then, and in training mode in the others"
    if not _is_called_evaluation(row.passes[-1].chain):
        return (Severity.WARNING, mode) if asleep and row.alternates(other) else (None, "")
    if _is_called_evaluation(other.passes[-1].chain):
        return None, ""
    if asleep:
        return Severity.ERROR, mode
    if row.measured and not other.measured:
        return Severity.WARNING, "it is evaluated too, as its name says"
    return Severity.INFO, "it is for evaluation, as its name says"


def _chain(place: Place, backward: Site | None) -> tuple[Place, ...]:
    """The line that asks for batches, and the calls that led to the function it is in, as a backward in it shows."""
    frames = backward.chain if backward is not None else ()
    at = [i for i, each in enumerate(frames) if (each.file, each.function) == (place.file, place.function)]
    return (place, *(frames[at[-1] + 1 :] if at else ()))


def _parting(one: _Pass, another: _Pass) -> Place:
    """The innermost call of one that the other has not: two loops may go through one helper."""
    return next((each for each in one.chain if each not in another.chain), one.chain[0])


def _is_called_evaluation(chain: tuple[Place, ...]) -> bool:
    """Whether the script's names for what is iterated, or for the functions around, are of evaluation."""
    for place in chain[:_FRAMES]:
        function = place.function.rpartition(".")[2].removeprefix("test_")  # pytest's prefix says nothing of data
        for words in (_words(place), _split(function)):
            if words & _TRAINS:
                return False
            if words & _EVALUATES:
                return True
    return False


def _words(place: Place) -> set[str]:
    """The words in the names at a line: of the loop's iterable, or of a call and its arguments."""
    looked_at: list[ast.expr] = []
    tree = code_of(place.file)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension) and _spans(node.iter, place.line):
            looked_at.append(node.iter)
        elif isinstance(node, ast.Call) and _spans(node, place.line):
            looked_at.append(node)
    words: set[str] = set()
    for each in looked_at:
        for inner in ast.walk(each):
            words |= _split(getattr(inner, "id", "") or getattr(inner, "attr", ""))
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                words |= _split(inner.value)
    return words


def _spans(node: ast.expr, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _split(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _times(count: int) -> str:
    return "one pass" if count == 1 else f"{count} passes"
