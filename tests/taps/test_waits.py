"""`before_batch` and `before_clip`: the moments at which a wait for data, and a clip, begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import loopkit
from loopkit import hookimpl
from tests.loops import loader, model


class Heard:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def before_batch(self, loader: Any) -> None:
        assert loader is not None
        self.seen.append("?")

    @hookimpl
    def batch_loaded(self) -> None:
        self.seen.append("D")

    @hookimpl
    def before_clip(self) -> None:
        self.seen.append("<")

    @hookimpl
    def gradients_clipped(self) -> None:
        self.seen.append("c")


def heard(loop: Callable[[], Any]) -> str:
    plugin = Heard()
    with loopkit.watch(plugins=[plugin], autoload=False) as run:
        loop()
    assert not run.failures
    return "".join(plugin.seen)


@pytest.mark.parametrize("data", [lambda: loader(12), lambda: loopkit.batches(list(loader(12)))])
def test_a_loader_is_asked_once_more_than_it_gives(data: Callable[[], Any]) -> None:
    shown = data()
    assert heard(lambda: [None for _ in shown]) == "?D?D?D?"


def test_a_clip_begins_with_its_norm() -> None:
    net = model()
    net(torch.ones(2, 4)).sum().backward()
    assert heard(lambda: torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)) == "<c"
    assert heard(lambda: torch.nn.utils.clip_grad_value_(net.parameters(), 1.0)) == "<c"
