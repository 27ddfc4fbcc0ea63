"""Promise 6: the report ends with the share of time spent in loopkit."""

from __future__ import annotations

import time

import loopkit
from loopkit import hookimpl
from tests.loops import textbook


def test_the_share_is_that_of_the_time_spent() -> None:
    class Slow:
        @hookimpl
        def after_step(self) -> None:
            time.sleep(0.05)

    with loopkit.watch(autoload=False, plugins=[Slow]) as slow:
        textbook(4)
    with loopkit.watch(autoload=False) as quick:
        textbook(4)
    assert slow.seconds() > 0.2
    assert 0.2 / slow.seconds() < slow.overhead() <= 1
    assert 0 < quick.overhead() < slow.overhead()
