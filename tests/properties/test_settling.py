"""What a settled loop leaves out is written down as if it had not been left out, whoever asks and whatever comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit import doubt, levels, settling, usual
from loopkit.history import in_words
from loopkit.inputs import Inputs

NEVER = 10**9
ORDERS = (
    ("clear", "batch", "forward", "backward", "step", "schedule"),
    ("batch", "clear", "forward", "backward", "step", "schedule"),
    ("batch", "forward", "clear", "backward", "step"),
    ("batch", "forward", "backward", "step", "schedule", "clear"),
    ("batch", "forward", "backward", "schedule", "step", "clear"),
    ("batch", "schedule", "forward", "backward", "step", "clear"),
    ("schedule", "clear", "forward", "backward", "step"),
    ("forward", "backward", "step", "clear"),
    ("forward", "backward", "step", "clear", "batch"),
)
"""Ordinary updates, each event once."""
ODD = (
    *("batch", "clear", "forward", "backward", "step", "schedule"),
    *("evaluate", "epoch", "zero", "module", "hand", "zero by hand", "twice", "write", "clip", "another line"),
    *("ask", "tell", "rows", "steps", "fail", "another optimizer", "add group", "train", "same batch", "not finite"),
    *("new optimizer", "new scheduler", "broken step", "ask in backward", "ask in step", "no reference"),
    *("ask elsewhere", "ask in forward"),
)
"""What may come between."""


@dataclass(frozen=True)
class Stretch:
    """An order that repeats itself, and what comes at a place of the update after."""

    order: tuple[str, ...]
    times: int
    odd: str
    at: int
    leaves_out: bool


stretches = st.lists(
    st.builds(
        Stretch,
        st.sampled_from(ORDERS),
        st.integers(4, 70),
        st.sampled_from(ODD),
        st.integers(0, 6),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


class Told:
    """All that a check gets to see."""

    def __init__(self) -> None:
        self.updates: list[str] = []

    @loopkit.hookimpl
    def update_finished(self, update: loopkit.Update) -> None:
        self.updates.append(repr(update))


class Training:
    """A loop whose every call is one of a program's words."""

    def __init__(self, run: loopkit.Run) -> None:
        self.run = run
        self.net = nn.Linear(2, 2)
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(self.net.parameters(), lr=0.01)]
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizers[0], lambda step: 1.0)
        self.loader = DataLoader(TensorDataset(torch.randn(4000, 2)), batch_size=2)
        self.batches: Iterator[list[Tensor]] = iter(self.loader)
        self.x = torch.randn(2, 2)
        self.loss: Tensor | None = None
        self.asked: list[object] = []

    def do(self, word: str) -> None:
        """What the word says."""
        step = getattr(self, f"_{word.replace(' ', '_')}")
        step()

    def _batch(self) -> None:
        self.x = next(self.batches)[0]

    def _forward(self) -> None:
        self.loss = self.net(self.x).square().mean()

    def _backward(self) -> None:
        if self.loss is not None and self.loss.grad_fn is not None:
            self.loss.backward(retain_graph=True)

    def _not_finite(self) -> None:
        (self.net(self.x).square().mean() * float("nan")).backward()

    def _step(self) -> None:
        self.optimizers[0].step()

    def _another_line(self) -> None:
        self.optimizers[0].step()

    def _schedule(self) -> None:
        self.scheduler.step()

    def _clear(self) -> None:
        self.optimizers[0].zero_grad()

    def _zero(self) -> None:
        self.optimizers[0].zero_grad(set_to_none=False)

    def _module(self) -> None:
        self.net.zero_grad()

    def _hand(self) -> None:
        self.net.weight.grad = None

    def _zero_by_hand(self) -> None:
        if self.net.bias.grad is not None:
            self.net.bias.grad.zero_()

    def _twice(self) -> None:
        if self.net.bias.grad is not None:
            self.net.bias.grad.mul_(2)

    def _write(self) -> None:
        self.net.bias.grad = torch.ones(2)

    def _clip(self) -> None:
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)

    def _evaluate(self) -> None:
        with torch.no_grad():
            self.net(self.x)

    def _train(self) -> None:
        self.net.train()

    def _epoch(self) -> None:
        self.batches = iter(self.loader)

    def _same_batch(self) -> None:
        self.net(self.x)

    def _fail(self) -> None:
        with suppress(RuntimeError):
            torch.zeros(2, requires_grad=True).backward()  # not a scalar

    def _another_optimizer(self) -> None:
        self.optimizers.append(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))

    def _add_group(self) -> None:
        self.optimizers[0].add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
        self._new_scheduler()

    def _new_optimizer(self) -> None:
        self.optimizers = [torch.optim.AdamW(self.net.parameters(), lr=0.01)]
        self._new_scheduler()

    def _new_scheduler(self) -> None:
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizers[0], lambda step: 1.0)

    def _no_reference(self) -> None:
        """Everything the loop made is gone, and was replaced only later."""
        del self.scheduler
        self.optimizers.clear()
        self._ask()
        self._new_optimizer()

    def _broken_step(self) -> None:
        group = self.optimizers[0].param_groups[0]
        betas, group["betas"] = group["betas"], None
        with suppress(TypeError):
            self._step()
        group["betas"] = betas

    def _ask_in_backward(self) -> None:
        def hook(grad: Tensor) -> None:
            self._ask()
            handle.remove()

        handle = self.net.bias.register_hook(hook)

    def _ask_elsewhere(self) -> None:
        """Another thread is told what was written down last, and disturbs nothing."""
        asking = threading.Thread(target=self.run.rows)
        asking.start()
        asking.join()

    def _ask_in_forward(self) -> None:
        """As a signal's handler may, in the midst of what the record does at an event."""
        run, saw = self.run, Inputs.saw

        def asked(self: Inputs, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            Inputs.saw = saw  # type: ignore[method-assign]
            run.rows()
            saw(self, args, kwargs)

        Inputs.saw = asked  # type: ignore[method-assign]

    def _ask_in_step(self) -> None:
        def hook(optimizer: object, *_: object) -> None:
            self._ask()
            handle.remove()

        handle = self.optimizers[0].register_step_post_hook(hook)

    def _tell(self) -> None:
        self.run.tell_next()

    def _rows(self) -> None:
        self.asked.append(self.run.rows())

    def _steps(self) -> None:
        self.asked.append(self.run.steps)

    def _ask(self) -> None:
        recorder = self.run.recorder
        owners = [
            (each.steps, each.offers, each.blank, each.versions, each.moved_at > 0, each.last_site)
            for each in recorder.ledger.owners()
        ]
        wiped = [
            [(mark.site, mark.batch, mark.inputs, site, count) for mark, site, count, _, _ in each.wiped]
            for each in recorder.ledger.owners()
        ]
        counters = recorder.batches, recorder.forwards, recorder.backwards, recorder.clears, recorder.in_backward
        self.asked.append(
            (repr(owners), repr(wiped), counters, repr(in_words(recorder._events)), repr(self.run.schedules()))
        )


def _words(program: list[Stretch]) -> list[str]:
    """All of them called from one line: a backward from another is another event."""
    words: list[str] = []
    for stretch in program:
        words += stretch.order * stretch.times
        at = min(stretch.at, len(stretch.order))
        words += [*stretch.order[:at], stretch.odd, *stretch.order[at + stretch.leaves_out :]]
    return [*words, "ask"]


def _seen(program: list[Stretch], repeats: int) -> list[object]:
    """All that can be known of the run of a program."""
    torch.manual_seed(0)
    told = Told()
    faster = patch.multiple(settling, REPEATS=repeats), patch.multiple(levels, _MOST=2), patch.multiple(doubt, SURE=1)
    with faster[0], faster[1], faster[2], loopkit.watch(autoload=False, plugins=[told]) as run:
        training, saw = Training(run), Inputs.saw
        for word in _words(program):
            training.do(word)
        Inputs.saw = saw  # type: ignore[method-assign]
    occurrences = [(hash(signature), count) for signature, count in run.history.occurrences.items()]
    return [told.updates, training.asked, occurrences, run.steps, repr(run.findings), repr(run.schedules())]


@settings(max_examples=120)
@given(stretches)
def test_a_settled_loop_reads_word_for_word_what_reading_every_event_reads(program: list[Stretch]) -> None:
    full, settled = _seen(program, NEVER), _seen(program, 2)
    for one, other in zip(full, settled, strict=True):
        assert one == other, program


def test_most_updates_of_a_plain_loop_are_left_out() -> None:
    with patch.multiple(usual, IN_FULL=16), loopkit.watch(autoload=False) as run:
        training, left_out = Training(run), 0
        for update in range(1200):
            for word in ORDERS[3]:
                training.do(word)
            left_out += update >= 1000 and run._recorder.expected.kind >= 0
    assert left_out > 0.7 * 200


def _settled_loop(run: loopkit.Run, updates: int) -> Training:
    """A loop that trained so long and is settled now."""
    training = Training(run)
    for word in ORDERS[3] * updates:
        training.do(word)
    assert run._recorder.expected.kind >= 0
    return training


def test_another_thread_that_asks_is_told_what_was_written_and_writes_nothing() -> None:
    with loopkit.watch(autoload=False) as run:
        training = _settled_loop(run, 204)
        asked = threading.Thread(target=run.rows)
        asked.start()
        asked.join()
        assert run._recorder.expected.kind >= 0
        assert sum(count for _, count in run.rows()) == 203  # the last one is still open
        assert run._recorder.expected.kind < 0
        del training  # that its optimizer is gone would have it written down too


def test_a_watch_that_another_thread_closes_counts_every_update() -> None:
    kept: list[Training] = []
    with loopkit.watch(autoload=False) as run:
        thread = threading.Thread(target=lambda: kept.append(_settled_loop(run, 204)))
        thread.start()
        thread.join()
        assert run._recorder.expected.kind >= 0
    assert sum(count for _, count in run.rows()) == run.steps == 204
