"""grads-into-unoptimized-params: found where it is, silent on what looks like it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of, model
from tests.watched import find, line_of, rules


class Teacher(nn.Module):
    """What is distilled."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x)
        return out


def teacher_neither_frozen_nor_detached() -> None:
    teacher, student = Teacher(), model()
    optimizer = adamw(student)
    for x, _ in batches(40):
        optimizer.zero_grad()
        loss_of(student(x), teacher(x)).backward()
        optimizer.step()


SNAPSHOTS = {"grads-into-unoptimized-params": teacher_neither_frozen_nor_detached}


def test_found_at_the_backward_with_the_models_name() -> None:
    (finding,) = find(teacher_neither_frozen_nor_detached)
    assert finding.rule == "grads-into-unoptimized-params"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(teacher_neither_frozen_nor_detached, "backward()")
    assert finding.subject == "Teacher"
    assert "2 parameters (10 numbers) of Teacher" in finding.seen


def test_found_when_gradients_must_pass_through_it() -> None:
    def loop() -> None:
        student, judge = model(), nn.Linear(2, 1)
        optimizer = adamw(student)
        for x, _ in batches(40):
            optimizer.zero_grad()
            judge(student(x)).mean().backward()
            optimizer.step()

    assert rules(loop) == ["grads-into-unoptimized-params"]


def test_silent_on_every_way_of_leaving_it_out() -> None:
    def loop() -> None:
        first, second, third, student = Teacher(), Teacher(), Teacher().requires_grad_(False), model()
        optimizer = adamw(student)
        for x, _ in batches(40):
            optimizer.zero_grad()
            with torch.no_grad():
                target = first(x)
            loss_of(student(x), target + second(x).detach() + third(x)).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_short_run() -> None:
    def loop() -> None:
        teacher, student = Teacher(), model()
        optimizer = adamw(student)
        for x, _ in batches(8):
            optimizer.zero_grad()
            loss_of(student(x), teacher(x)).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_two_players() -> None:
    def loop() -> None:
        generator, critic = nn.Linear(4, 4), nn.Linear(4, 1)
        for_generator = torch.optim.Adam(generator.parameters())
        for_critic = torch.optim.Adam(critic.parameters())
        for x, _ in batches(40):
            for_critic.zero_grad()
            (critic(x) - critic(generator(x).detach())).mean().backward()
            for_critic.step()
            for_generator.zero_grad()
            critic(generator(x)).mean().backward()
            for_generator.step()

    assert rules(loop) == []


def test_silent_on_gradual_unfreezing() -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.Adam(net[2].parameters())
        for i, (x, y) in enumerate(batches(60)):
            if i == 40:
                optimizer.add_param_group({"params": net[0].parameters()})
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()

    assert rules(loop) == []


def test_silent_on_a_model_that_is_updated_by_hand_or_copied_into() -> None:
    def loop() -> None:
        teacher, mirror, student = Teacher(), Teacher(), model()
        optimizer = adamw(student)
        for x, _ in batches(40):
            optimizer.zero_grad()
            loss_of(student(x), teacher(x) + mirror(x)).backward()
            optimizer.step()
            for parameter in teacher.parameters():
                assert parameter.grad is not None
                parameter.data -= 0.01 * parameter.grad
            mirror.load_state_dict(teacher.state_dict())

    assert rules(loop) == []


def test_silent_on_first_order_meta_learning() -> None:
    def loop() -> None:
        net = model()
        outer = adamw(net)
        for x, y in batches(40):
            fast = copy.deepcopy(net)
            inner = torch.optim.SGD(fast.parameters(), lr=0.1)
            loss_of(fast(x), y).backward()
            inner.step()
            del inner
            outer.zero_grad()
            (loss_of(fast(x), y) + loss_of(net(x), y)).backward()
            outer.step()

    assert rules(loop) == []


def test_only_info_where_inputs_alone_are_optimized() -> None:
    def loop() -> None:
        net = model()
        image = torch.randn(4, 4, requires_grad=True)
        optimizer = torch.optim.Adam([image])
        for _ in range(40):
            optimizer.zero_grad()
            net(image).square().sum().backward()
            optimizer.step()

    (finding,) = find(loop)
    assert finding.severity == Severity.INFO
