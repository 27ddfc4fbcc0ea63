"""Accumulation windows hold different numbers of micro-batches where an epoch begins or ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from loopkit import Confidence, Finding, Kind, Run, Severity, Site, Update, Window, Windows, hookimpl

_SURE = 3  # windows of the usual length before an odd one is called odd
_RARE = 20  # less than the weight of one update, or one batch, of so many does little harm
_SHAPES = 64  # signatures of one call; a loop with more has no usual window
_CLOSE = 1e-3


class AccumWindowUneven:
    """The first or the last accumulation window of an epoch is shorter or longer than the others.

    What it looks for
        How many backwards of one call, each of another batch, every step used, and where an epoch began. A first
        window of one micro-batch (`i % k == 0`); the last micro-batches of an epoch, whose gradients are cleared
        unused or added to the next epoch's first window; a last window that is stepped, but whose losses are
        divided by the full length; at the end of a run of one epoch, micro-batches that were never stepped.

    Why that hurts
        The odd window's update weighs more or less than the others; or its batches are computed and thrown away.

    A loop that has it
        for i, (x, y) in enumerate(loader):
            (criterion(model(x), y) / k).backward()
            if i % k == 0:
                optimizer.step()
                optimizer.zero_grad()

    The repair
        Step on `(i + 1) % k == 0 or i + 1 == len(loader)`, and divide the last window's losses by its real size. Or
        let k divide the number of batches: another batch size, or fewer batches.

    Left alone
        A smaller last window whose losses are divided by its real size; windows of ever-changing length (batches of
        so many tokens); a batch skipped within an epoch; a window of the usual length that crosses an epoch; loops
        that end early; several losses of one batch, LBFGS, SAM. What is rare or was asked for is only said (info): a
        tail that is cleared by a call of its own after the epoch; what comes to less than one batch, or the weight of
        one update, of twenty; a last window that weighs more than half of a full one, or was seen once. Accelerate
        and Lightning divide a short last window by the full length: that is told as theirs. HF Trainer does not.

    What it costs
        Nothing beyond the ledger and the reading of losses in windows.
    """

    rule = "accum-window-uneven"
    severity = Severity.WARNING
    confidence = Confidence.FACT

    def __init__(self) -> None:
        self._calls: dict[tuple[int, int], _Call] = {}
        self._reported: set[int] = set()

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> None:
        """Note each window's length, and judge its call by what is known of all of them."""
        for window in run.instrument(Windows).of(update):
            call = self._calls.setdefault((window.reading.number, window.site.number), _Call())
            call.add(window, update)
            for finding in self._judge(call, final=False):
                run.report(finding)  # not returned: it is not this update that is odd, and its like are not counted

    @hookimpl
    def run_finished(self, run: Run) -> Iterator[Finding]:
        """Say what stayed below the threshold, and what was left over."""
        left = run.open_update()
        for call in self._calls.values():
            yield from self._judge(call, final=True)
            if left is not None and run.instrument(Windows).epochs == 1:
                yield from self._tell(call, call.pending(left, run.steps))

    def _judge(self, call: _Call, *, final: bool) -> Iterator[Finding]:
        if not call.regular():
            return
        for oddity in (call.first(), call.lost(), call.leaked(), call.tail()):
            if oddity is not None and (final or oddity.severity is not Severity.INFO):
                yield from self._tell(call, oddity)

    def _tell(self, call: _Call, oddity: _Oddity | None) -> Iterator[Finding]:
        site = call.site
        if oddity is None or site is None or site.number in self._reported:
            return
        self._reported.add(site.number)
        window = oddity.window
        step = window.step.site
        assert step is not None
        yield Finding(
            rule=self.rule,
            severity=oddity.severity,
            confidence=self.confidence,
            place=site.place,
            places={"backward": site.place, "step": step.place},
            subject=window.reading.optimizer,
            seen=oddity.seen,
            why=oddity.why,
            remedy=oddity.remedy,
            evidence={
                "optimizer": window.reading.optimizer,
                "usual_micro_batches": call.usual(),
                "backward_frames": [str(frame) for frame in site.chain],
                "step_frames": [str(frame) for frame in step.chain],
                "framework": window.framework or None,
                **oddity.evidence,
            },
            step=oddity.number,
        )


@dataclass
class _Oddity:
    """What is odd about some windows of a call, and one of them."""

    window: Window
    number: int | None
    severity: Severity
    seen: str
    why: str
    remedy: str
    evidence: dict[str, int | float]


@dataclass
class _Shape:
    """Windows of one signature: the first, at which step, and how many."""

    window: Window
    number: int
    count: int


@dataclass
class _Call:
    """The windows that one call's backwards formed for one optimizer."""

    shapes: dict[Hashable, _Shape] = field(default_factory=dict)
    site: Site | None = None
    steps: int = 0
    others: int = 0  # windows that are not of micro-batches, or look so where batches are read ahead

    def add(self, window: Window, update: Update) -> None:
        self.site, self.steps = window.site, window.reading.steps
        if not window.of_micro_batches or len(self.shapes) >= _SHAPES:
            self.others += 1
            return
        shape = self.shapes.setdefault((update.signature, window.size), _Shape(window, update.number, 0))
        shape.count = update.seen

    def usual(self) -> int:
        """The usual number of micro-batches: of most windows that cross no epoch, the larger of two as frequent."""
        counts: Counter[int] = Counter()
        for crossing in (False, True):
            for shape in self.shapes.values():
                if bool(shape.window.epoch_at) is crossing:
                    counts[shape.window.size] += shape.count
            if counts:
                break
        return max(counts, key=lambda size: (counts[size], size), default=0)

    def length(self) -> int | None:
        """Batches an epoch has, if every epoch has as many."""
        lengths = {shape.window.length for shape in self.shapes.values() if shape.window.epoch_at is not None}
        return lengths.pop() if len(lengths) == 1 else None

    def regular(self) -> bool:
        """Whether the windows within an epoch are of one length, of two micro-batches at least."""
        k = self.usual()
        return (
            self.others < len(self.shapes) < _SHAPES
            and k > 1
            and all(self._explained(shape.window, k) for shape in self.shapes.values())
        )

    def _explained(self, window: Window, k: int) -> bool:
        at_an_edge = window.epoch_at is not None or window.reading.steps == 1
        return at_an_edge or window.size == k or self._is_tail(window, k)

    def _is_tail(self, window: Window, k: int) -> bool:
        length = self.length()
        return length is not None and window.epoch_at is None and window.size == length % k

    def _full(self) -> list[_Shape]:
        k = self.usual()
        return [shape for shape in self.shapes.values() if shape.window.size == k]

    def _harm(self, odd: float, out_of: int) -> Severity:
        return Severity.WARNING if odd * _RARE > out_of else Severity.INFO

    def first(self) -> _Oddity | None:
        """An epoch's first window, or the run's, holds one micro-batch, and the others more."""
        k = self.usual()
        opening = [s for s in self.shapes.values() if s.window.epoch_at == 0 or s.window.reading.steps == 1]
        sizes = {shape.window.size for shape in opening}
        length = self.length()
        # A run that is resumed fetches what it skips, and its first window is the rest of one.
        resumed = any(
            s.window.reading.steps == 1 and max(s.window.reading.batches[:1], default=0) > 1 for s in opening
        )
        if (
            sizes != {1}
            or resumed
            or sum(shape.count for shape in self._full()) < _SURE
            or (length is not None and length <= 1)
        ):
            return None
        lost = max((shape.window.lost for shape in self.shapes.values()), default=0)
        each = "each epoch" if sum(shape.count for shape in opening) > 1 else "the run"
        also = f"; the last {lost} of an epoch are cleared unused" if lost else ""
        shape = opening[0]
        return _Oddity(
            shape.window,
            shape.number,
            Severity.WARNING,
            seen=f"the first window of {each} holds 1 micro-batch, the others {k}{also}",
            why=f"the test that decides when to step is one batch off: it is true for the first batch, "
            f"and the window it should have closed weighs 1/{k}",
            remedy=f"step when (i + 1) % {k} == 0, not when i % {k} == 0, and at the last batch of the epoch",
            evidence={"first_window": 1, "cleared_unused": lost},
        )

    def lost(self) -> _Oddity | None:
        """The last micro-batches of an epoch are cleared before any step used them."""
        losing = [shape for shape in self.shapes.values() if shape.window.lost]
        if not losing:
            return None
        k, shape = self.usual(), losing[0]
        lost, times = shape.window.lost, sum(each.count for each in losing)
        micro_batches = self.length() or sum(each.count * each.window.size for each in self.shapes.values())
        severity = Severity.WARNING if times > 1 else self._harm(lost, micro_batches)
        if any(each.window.dropped for each in losing):
            severity = Severity.INFO
        return _Oddity(
            shape.window,
            shape.number,
            severity,
            seen=f"windows hold {k} micro-batches; the gradients of the last {lost} of an epoch of {micro_batches} "
            "were cleared before any step used them",
            why=f"in every epoch {lost} of {micro_batches} batches are computed and thrown away",
            remedy="step once more at the last batch of an epoch, with its losses divided by the window's real size; "
            f"or give the loader a number of batches that {k} divides",
            evidence={"cleared_unused": lost, "batches": micro_batches},
        )

    def leaked(self) -> _Oddity | None:
        """The last micro-batches of an epoch are still there when the next epoch's first window is filled."""
        k = self.usual()
        longer = [s for s in self.shapes.values() if s.window.epoch_at and s.window.size == k + s.window.epoch_at]
        if not longer:
            return None
        shape, size = longer[0], longer[0].window.size
        return _Oddity(
            shape.window,
            shape.number,
            self._harm(sum(each.count for each in longer) * (size / k - 1), self.steps),
            seen=f"the first window after an epoch holds {size} micro-batches, {size - k} of them left over from the "
            f"epoch before; the others hold {k}",
            why=f"its update weighs {size / k:.2f} times the others'",
            remedy="step at the last batch of an epoch too, with its losses divided by the window's real size; "
            f"or give the loader a number of batches that {k} divides",
            evidence={"left_over": size - k, "weight": size / k},
        )

    def tail(self) -> _Oddity | None:
        """A last window of fewer micro-batches is stepped, but each weighs as one of a full window."""
        k = self.usual()
        short = [s for s in self.shapes.values() if s.window.size < k and self._is_tail(s.window, k)]
        full = next((weight for s in self._full() if (weight := _weight(s.window)) is not None), None)
        if not short or full is None or abs(full - 1) > _CLOSE:
            return None
        shape, r = short[0], short[0].window.size
        weight = _weight(shape.window)
        if weight is None or abs(weight - r / k) > _CLOSE:
            return None
        times = sum(each.count for each in short)
        harm = self._harm(times * (1 - weight), self.steps)
        who = f"{shape.window.framework} divides" if shape.window.framework else "its losses are divided"
        return _Oddity(
            shape.window,
            shape.number,
            harm if times > 1 and 2 * r <= k else Severity.INFO,
            seen=f"the last window of an epoch holds {r} of {k} micro-batches, and {who} by {k} there too: "
            f"its update weighs {weight:.2g} of a full one",
            why="the last update of each epoch is too small for SGD, and too small beside weight decay and clipping",
            remedy=f"multiply the losses of the last window by {k}/{r}; or give the loader a number of batches "
            f"that {k} divides, by another batch size or by leaving {r} out",
            evidence={"last_window": r, "weight": weight},
        )

    def pending(self, left: Update, steps: int) -> _Oddity | None:
        """At the end of a run of one whole epoch, micro-batches that no step used."""
        over = sum(event.kind is Kind.BACKWARD and event.site is self.site for event in left.events)
        k, length = self.usual(), self.length()
        if not over or length is None or not self.regular() or self.tail_is_stepped():
            return None
        if steps * k + over != length or any(shape.window.size != k for shape in self.shapes.values()):
            return None  # cut short, or not this call's alone
        shape = next(iter(self.shapes.values()))
        return _Oddity(
            shape.window,
            None,
            self._harm(over, length),
            seen=f"the run ended with the gradients of {over} micro-batches that no step used; windows hold {k}, "
            f"and the epoch has {length}",
            why=f"{over} of {length} batches are computed and thrown away",
            remedy="step once more at the last batch of an epoch, with its losses divided by the window's real size",
            evidence={"left_over": over, "batches": length},
        )

    def tail_is_stepped(self) -> bool:
        """Whether a short last window was seen to be used."""
        k = self.usual()
        return any(self._is_tail(shape.window, k) and shape.window.size < k for shape in self.shapes.values())


def _weight(window: Window) -> float | None:
    """The weight of the first term whose weight is known."""
    return next((weight for weight in window.weights() if weight is not None), None)
