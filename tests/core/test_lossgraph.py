"""The loss graph: what is read of how a loss was made, before backward frees it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import loopkit
from loopkit import LossReading
from tests.loops import batches, loss_of, model
from tests.watched import Updates


def read(loop: Callable[[nn.Module, torch.optim.Optimizer], Any]) -> list[LossReading]:
    """What was read of the losses of a loop, in order."""
    kept = Updates()
    net = nn.Linear(4, 3)
    with loopkit.watch(plugins=[kept], autoload=False) as run:
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        loop(net, optimizer)
        optimizer.step()
    assert not run.not_checked() or run.recorder.losses.error is None
    return [reading for update in kept.seen for _, reading in update.losses()]


def read_one(loss: Callable[[nn.Module], Tensor]) -> LossReading:
    (reading,) = read(lambda net, optimizer: loss(net).backward())
    return reading


X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, -100, -100])

LOSSES: list[tuple[Callable[[Any], Tensor], float, str, str]] = [
    (lambda net: F.cross_entropy(net(X), Y), 1.0, "NllLoss", "mean"),
    (lambda net: F.cross_entropy(net(X), Y) / 4, 0.25, "NllLoss", "mean"),
    (lambda net: 0.5 * F.cross_entropy(net(X), Y) / 2, 0.25, "NllLoss", "mean"),
    (lambda net: F.cross_entropy(net(X), Y) / torch.tensor(8.0), 0.125, "NllLoss", "mean"),
    (lambda net: F.cross_entropy(net(X), Y, reduction="sum") / 6, 1 / 6, "NllLoss", "sum"),
    (lambda net: F.mse_loss(net(X), X[:, :3]) * 3, 3.0, "MseLoss", "mean"),
    (lambda net: F.l1_loss(net(X), X[:, :3]), 1.0, "Mean", "mean"),
    (lambda net: F.binary_cross_entropy_with_logits(net(X), X[:, :3]), 1.0, "BinaryCrossEntropyWithLogits", "mean"),
    (lambda net: -net(X).mean(), -1.0, "Mean", "mean"),
    (lambda net: net(X).square().sum(), 1.0, "Sum", "sum"),
    (lambda net: (net(X).mean() / 4).reshape(1).squeeze(), 0.25, "Mean", "mean"),
    (lambda net: net(X).norm(), 1.0, "LinalgVectorNorm", ""),
]


@pytest.mark.parametrize(("loss", "factor", "kind", "reduction"), LOSSES)
def test_the_factor_and_the_reduction_of_one_term(
    loss: Callable[[Any], Tensor], factor: float, kind: str, reduction: str
) -> None:
    reading = read_one(loss)
    assert reading.factor == pytest.approx(factor)
    (term,) = reading.terms
    assert (term.kind, term.reduction, term.factor) == (kind, reduction, 1.0)


def test_targets_that_count() -> None:
    reading = read_one(lambda net: F.cross_entropy(net(X), Y))
    assert (reading.terms[0].valid, reading.terms[0].total) == (4.0, 6)
    weighted = read_one(lambda net: F.cross_entropy(net(X), Y, weight=torch.ones(3)))
    assert weighted.terms[0].valid is None  # the node holds a sum of weights, and no count


def test_terms_of_a_sum_have_factors_of_their_own() -> None:
    reading = read_one(lambda net: (F.cross_entropy(net(X), Y) + 0.1 * net(X).square().mean()) / 2)
    assert reading.factor == 0.5
    assert {(term.kind, round(term.factor, 6)) for term in reading.terms} == {("NllLoss", 1.0), ("Mean", 0.1)}


@given(st.lists(st.tuples(st.sampled_from("*/"), st.floats(0.1, 10)), max_size=5))
def test_any_row_of_constants_is_multiplied_out(row: list[tuple[str, float]]) -> None:
    expected = 1.0
    for how, number in row:
        expected = expected * number if how == "*" else expected / number

    def loss(net: nn.Module) -> Tensor:
        value: Tensor = net(X).double().mean()
        for how, number in row:
            value = value * number if how == "*" else value / number
        return value

    assert read_one(loss).factor == pytest.approx(expected)


def test_the_scale_of_a_grad_scaler_is_no_factor() -> None:
    def loop(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(F.cross_entropy(net(X), Y) / 2).backward()
        scaler.unscale_(optimizer)

    (reading,) = read(loop)
    assert (reading.factor, reading.scaled) == (0.5, True)


def test_a_product_with_a_tensor_of_many_values_is_no_factor() -> None:
    reading = read_one(lambda net: (net(X) * torch.rand(6, 3)).mean())
    assert (reading.factor, reading.terms[0].kind) == (1.0, "Mean")
    assert read_one(lambda net: net(X).mean() * net(X).sum()).terms[0].kind == "Mul"


def test_saved_values_are_not_asked_for_where_hooks_would_answer() -> None:
    asked: list[str] = []

    def unpack(path: str) -> Tensor:
        asked.append(path)
        loaded: Tensor = torch.load(path)
        return loaded

    def pack(tensor: Tensor) -> str:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            torch.save(tensor, file.name)
        return file.name

    def loop(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            loss = net(X).mean() / 4
        before = len(asked)
        with loopkit.watch():  # joins the run that is open
            graph = loopkit.current_run().recorder.losses.graph  # type: ignore[union-attr]
            graph.factors(loss)
        assert len(asked) == before
        loss.backward()

    (reading,) = read(loop)
    assert reading.terms[0].kind == "Div"  # not seen through


def test_how_a_loss_reaches_the_parameters() -> None:
    (reading,) = read(lambda net, optimizer: net(X).mean().backward())
    (reach,) = reading.reaches
    assert (reading.walked, reading.leaf, reading.opaque, reading.zeroes) == (True, False, (), ())
    assert (reach.parameters, reach.reached, reach.zeroed, reach.stale) == (2, 2, 0, 0)


def test_a_rounded_output_has_no_live_path_and_a_straight_through_one_has() -> None:
    (rounded,) = read(lambda net, optimizer: net(X).round().mean().backward())
    assert (rounded.zeroes, rounded.reaches[0].zeroed) == (("Round",), 2)

    def straight(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        out = net(X)
        (out + (out.round() - out).detach()).mean().backward()

    assert read(straight)[0].reaches[0].zeroed == 0


def test_a_graph_made_before_a_fused_step_is_stale() -> None:
    def loop(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        deep = net(net(X) @ torch.ones(3, 4))
        deep.mean().backward(retain_graph=True)
        optimizer.step()
        optimizer.zero_grad()
        deep.mean().backward()

    first, second = read(loop)
    assert (first.reaches[0].stale, second.reaches[0].stale) == (0, 2)
    assert second.reaches[0].step is not None


def test_a_loss_rebuilt_from_its_value_is_a_leaf() -> None:
    reading = read_one(lambda net: torch.tensor(net(X).mean().item(), requires_grad=True))
    assert (reading.leaf, reading.terms[0].kind, reading.reaches[0].reached) == (True, "", 0)


def test_custom_functions_and_reentrant_checkpoints_are_opaque() -> None:
    x = X.clone().requires_grad_()
    reading = read_one(lambda net: checkpoint(net, x, use_reentrant=True).mean())
    assert reading.opaque == ("CheckpointFunction",)


def test_the_same_loss_sent_twice_is_seen() -> None:
    def loop(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loss = net(X).mean()
        loss.backward(retain_graph=True)
        loss.backward()

    first, second = read(loop)
    assert (first.repeated, first.retained, second.repeated, second.retained) == (False, True, True, False)


def test_every_micro_batch_of_a_window_is_read_and_of_other_updates_few_are() -> None:
    def factors(window: int) -> int:
        kept, net, graph = Updates(), model(), 0
        with loopkit.watch(plugins=[kept], autoload=False) as run:
            optimizer = torch.optim.SGD(net.parameters())
            losses = run.recorder.losses
            original = losses.graph.factors

            def counting(root: Tensor) -> Any:
                nonlocal graph
                graph += 1
                return original(root)

            losses.graph.factors = counting  # type: ignore[method-assign]
            for i, (x, y) in enumerate(batches(100)):
                loss_of(net(x), y).backward()
                if (i + 1) % window == 0:
                    optimizer.step()
                    optimizer.zero_grad()
        return graph

    assert factors(window=2) == 100
    assert factors(window=7) == 98 + 2
    assert factors(window=1) < 15


def test_a_window_that_begins_late_is_read_from_its_second_update_on() -> None:
    kept, net = Updates(), model()
    with loopkit.watch(plugins=[kept], autoload=False):
        optimizer = torch.optim.SGD(net.parameters())
        for i, (x, y) in enumerate(batches(100)):
            loss_of(net(x), y).backward()
            if i < 40 or i % 2:
                optimizer.step()
                optimizer.zero_grad()
    windows = [len(list(update.losses())) for update in kept.seen if update.number > 40]
    assert windows[0] in (1, 2)
    assert windows[1:] == [2] * (len(windows) - 1)
    assert len(windows) > 3
