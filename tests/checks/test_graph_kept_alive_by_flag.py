"""graph-kept-alive-by-flag: found where it is, silent on what looks like it."""

from __future__ import annotations

import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules


def kept_for_nobody() -> None:
    net = model()
    optimizer = adamw(net)
    for x, y in batches(6):
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward(retain_graph=True)
        optimizer.step()


SNAPSHOTS = {"graph-kept-alive-by-flag": kept_for_nobody}


def test_found_at_the_backward() -> None:
    (finding,) = find(kept_for_nobody)
    assert finding.rule == "graph-kept-alive-by-flag"
    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(kept_for_nobody, "loss.backward(")
    assert finding.step == 4


def test_found_for_a_graph_of_the_gradients() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(6):
            optimizer.zero_grad()
            loss_of(net(x), y).backward(create_graph=True)
            optimizer.step()

    (finding,) = find(loop)
    assert (finding.rule, finding.subject) == ("graph-kept-alive-by-flag", "create_graph")


def test_silent_on_two_losses_of_one_graph() -> None:
    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in batches(8):
            optimizer.zero_grad()
            out = net(x)
            loss_of(out, y).backward(retain_graph=True)
            out.abs().mean().backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_where_another_optimizers_loss_goes_through_it() -> None:
    def loop() -> None:
        trunk, head = nn.Linear(4, 4), nn.Linear(4, 2)
        slowly, quickly = torch.optim.SGD(trunk.parameters(), 0.01), torch.optim.SGD(head.parameters(), 0.01)
        for x, y in batches(8):
            slowly.zero_grad()
            quickly.zero_grad()
            hidden = trunk(x)
            loss_of(head(hidden), y).backward(retain_graph=True)
            quickly.step()
            hidden.square().mean().backward()
            slowly.step()

    assert "graph-kept-alive-by-flag" not in rules(loop)


def test_silent_on_a_gradient_penalty_and_on_a_cached_graph() -> None:
    def loop() -> None:
        net, base = model(), torch.ones(4, 4, requires_grad=True)
        cached = base * 2
        optimizer = adamw(net)
        for x, y in batches(8):
            optimizer.zero_grad()
            x.requires_grad_()
            (grad,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            (grad.norm() + loss_of(net(cached), y)).backward(retain_graph=True)
            optimizer.step()

    assert rules(loop) == []
