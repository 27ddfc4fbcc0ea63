"""reference-model-in-train-mode: found where it is, silent on what looks like it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loader, loss_of, model
from tests.watched import find, line_of, rules


def with_dropout(p: float = 0.2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(p), nn.Linear(8, 2))


def distillation() -> None:
    student, teacher = model(), with_dropout()
    optimizer = adamw(student)
    for x, y in loader(48):
        with torch.no_grad():
            wanted = teacher(x)
        optimizer.zero_grad()
        (loss_of(student(x), wanted) + loss_of(student(x), y)).backward()
        optimizer.step()


SNAPSHOTS = {"reference-model-in-train-mode": distillation}


def test_found_at_the_call_of_the_teacher() -> None:
    (finding,) = find(distillation)
    assert finding.rule == "reference-model-in-train-mode"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(distillation, "teacher(x)")
    assert "dropout drew" in finding.seen


def test_found_without_a_loader() -> None:
    def loop() -> None:
        student, teacher = with_dropout(), with_dropout()
        optimizer = adamw(student)
        for x, _ in batches(12):
            with torch.inference_mode():
                wanted = teacher(x)
            optimizer.zero_grad()
            loss_of(student(x), wanted.clone()).backward()
            optimizer.step()

    assert "reference-model-in-train-mode" in rules(loop)


@pytest.mark.parametrize(
    "how", ["eval", "told", "no dropout", "mean", "mean through data", "monte carlo", "itself", "part"]
)
def test_silent_on(how: str) -> None:
    def loop() -> None:
        student = with_dropout()
        teacher = copy.deepcopy(student)
        if how == "no dropout":
            teacher[1] = nn.Dropout(0.0)
        elif how == "eval":
            teacher.eval()
        elif how == "told":
            teacher.train()
        elif how == "itself":
            teacher = student
        elif how == "part":
            teacher = nn.Sequential(student[0], nn.Dropout(0.1))
        optimizer = adamw(student)
        for x, _ in batches(24):
            with torch.no_grad():
                wanted = torch.stack([teacher(x) for _ in range(4 if how == "monte carlo" else 1)])
                wanted = wanted.mean(0)[:, :2]
            optimizer.zero_grad()
            (loss_of(student(x), wanted)).backward()
            optimizer.step()
            if how == "mean":
                with torch.no_grad():
                    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                        mine.lerp_(theirs, 0.1)
            elif how == "mean through data":
                for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                    mine.data.mul_(0.9).add_(theirs.data, alpha=0.1)

    assert "reference-model-in-train-mode" not in rules(loop)


def test_silent_on_a_model_that_is_trained_by_hand() -> None:
    def loop() -> None:
        net, other = with_dropout(), model()
        optimizer = adamw(other)
        for x, y in batches(24):
            optimizer.zero_grad()
            (loss_of(net(x), y) + loss_of(other(x), y)).backward()
            optimizer.step()
            with torch.no_grad():
                for parameter in net.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(parameter.grad, alpha=0.01)
                    parameter.grad = None
                net(x)

    assert "reference-model-in-train-mode" not in rules(loop)
