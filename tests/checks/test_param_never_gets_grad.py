"""param-never-gets-grad: found where it is, silent on what looks like it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from tests.loops import batches, loss_of
from tests.watched import find, line_of, rules


class TwoHeads(nn.Module):
    """A stem and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.first = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        self.second = nn.Linear(8, 2)
        self.spare = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stem(x).tanh()
        return self.first(h), self.second(h)


def drops_a_term() -> None:
    net = TwoHeads()
    net.spare.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    for x, y in batches(40):
        one, two = net(x)
        loss = loss_of(one, y)
        loss = +loss_of(two, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"param-never-gets-grad": drops_a_term}


def loud(findings: list[Finding]) -> list[str]:
    return [finding.subject for finding in findings if finding.severity != Severity.INFO]


def test_found_for_the_whole_head_at_the_backward() -> None:
    findings = find(drops_a_term)  # the `=+` that is the cause is found too
    (finding,) = [each for each in findings if each.rule == "param-never-gets-grad"]
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(drops_a_term, "backward()")
    assert finding.subject == "TwoHeads.first"
    assert "the 4 trainable parameters (90 numbers) of TwoHeads.first in the whole run: in Adam" in finding.seen


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_found_where_the_output_of_a_part_is_detached(make: type[torch.optim.Optimizer]) -> None:
    def loop() -> None:
        encoder, head = nn.Linear(4, 8), nn.Linear(8, 2)
        optimizer = make([*encoder.parameters(), *head.parameters()], lr=0.01)  # type: ignore[call-arg]
        for x, y in batches(40):
            optimizer.zero_grad()
            loss_of(head(encoder(x).detach()), y).backward()
            optimizer.step()

    assert loud(find(loop)) == ["Linear"]


def test_a_module_that_was_never_called_is_info() -> None:
    def loop() -> None:
        net = TwoHeads()
        optimizer = torch.optim.Adam(net.parameters())
        for x, y in batches(40):
            one, two = net(x)
            optimizer.zero_grad()
            loss_of(one + two, y).backward()
            optimizer.step()

    (finding,) = find(loop)
    assert (finding.subject, finding.severity) == ("TwoHeads.spare", Severity.INFO)
    assert "not called" in finding.seen


def test_a_body_under_no_grad_is_info() -> None:
    def loop() -> None:
        body, head = nn.Linear(4, 8), nn.Linear(8, 2)
        optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
        for x, y in batches(40):
            with torch.no_grad():
                h = body(x)
            optimizer.zero_grad()
            loss_of(head(h), y).backward()
            optimizer.step()

    assert loud(find(loop)) == []


class Experts(nn.Module):
    """Of many experts few are called."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 2) for _ in range(6)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts[1](x)
        return out


def test_experts_that_are_never_called_are_one_info() -> None:
    def loop() -> None:
        net = Experts()
        optimizer = torch.optim.Adam(net.parameters())
        for x, y in batches(40):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    (finding,) = find(loop)
    assert finding.severity == Severity.INFO
    assert "Experts.experts.0 and 4 more modules of Experts.experts" in finding.seen


def test_silent_on_a_short_run() -> None:
    def loop() -> None:
        net = TwoHeads()
        optimizer = torch.optim.Adam(net.parameters())
        for x, y in batches(20):
            optimizer.zero_grad()
            loss_of(net(x)[0], y).backward()
            optimizer.step()

    assert rules(loop) == []


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_silent_on_tasks_that_take_turns(make: type[torch.optim.Optimizer]) -> None:
    def loop() -> None:
        net = TwoHeads()
        net.spare.requires_grad_(False)
        optimizer = make(net.parameters(), lr=0.01)  # type: ignore[call-arg]
        for i, (x, y) in enumerate(batches(64)):
            optimizer.zero_grad()
            loss_of(net(x)[i // 3 % 2], y).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_head_that_is_trained_later() -> None:
    def loop() -> None:
        net = TwoHeads()
        net.spare.requires_grad_(False)
        optimizer = torch.optim.Adam(net.parameters())
        for i, (x, y) in enumerate(batches(80)):
            one, two = net(x)
            optimizer.zero_grad()
            (loss_of(one, y) if i < 70 else loss_of(one, y) + loss_of(two, y)).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_gradients_of_0() -> None:
    def loop() -> None:
        net = TwoHeads()
        net.spare.requires_grad_(False)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        for x, y in batches(40):
            one, two = net(x)
            optimizer.zero_grad()
            (loss_of(one, y) + 0 * loss_of(two, y)).backward()
            optimizer.step()

    assert rules(loop) == ["lr-zero-while-training"]


def test_silent_on_a_part_that_is_copied_into() -> None:
    def loop() -> None:
        net = TwoHeads()
        net.spare.requires_grad_(False)
        optimizer = torch.optim.Adam(net.parameters())
        for x, y in batches(40):
            optimizer.zero_grad()
            one, two = net(x)
            loss_of(two, one.mean().detach() + y).backward()
            optimizer.step()
            for parameter in net.first.parameters():
                parameter.data.mul_(0.99)

    assert rules(loop) == []


def test_silent_on_players_that_take_turns() -> None:
    def loop() -> None:
        one, two = nn.Linear(4, 2), nn.Linear(4, 2)
        optimizers = [torch.optim.Adam(each.parameters()) for each in (one, two)]
        for i, (x, y) in enumerate(batches(64)):
            optimizers[i % 2].zero_grad()
            loss_of((one, two)[i % 2](x), y).backward()
            optimizers[i % 2].step()

    assert rules(loop) == []
