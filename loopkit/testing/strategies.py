"""Loops for hypothesis: `@given(strategies.loops())`. The one module of loopkit that needs hypothesis.

A check that is right is silent on every loop without a fault, and speaks on those with its own::

    @given(strategies.loops())
    def test_silent(loop):
        assert_silent(loop, plugins=[MyCheck], autoload=False)
"""

from __future__ import annotations

from hypothesis import strategies as st

from loopkit.testing.writtenloop import CLEARS, FAULTS, OPTIMIZERS, WINDOWED, WrittenLoop


@st.composite
def loops(draw: st.DrawFn, fault: str = "") -> WrittenLoop:
    """Loops that differ in all that right loops differ in: optimizers, windows, tails, ways and places of clearing,
    clipping and schedules. The simplest is the textbook's.

    Args:
        draw: given by hypothesis.
        fault: a rule that each of them breaks, of `faults()`; "" for none.
    """
    several = fault in WINDOWED
    window = draw(st.integers(1 + several, 4))
    return WrittenLoop(
        optimizers=tuple(draw(st.lists(st.sampled_from(sorted(OPTIMIZERS)), min_size=1, max_size=2))),
        window=window,
        updates=draw(st.integers(8, 12)),
        epochs=draw(st.integers(1 + several, 3)),
        # A tail that is not divided is a window of its own scale: nothing is then wrong in all windows alike.
        tail=0 if several else draw(st.integers(0, window - 1)),
        clear=draw(st.sampled_from(CLEARS)),
        first=draw(st.booleans()),
        clip=draw(st.booleans()),
        scheduled=draw(st.booleans()),
        fault=fault,
    )


def faults() -> st.SearchStrategy[str]:
    """The rules that a written loop may break: `faults().flatmap(loops)`."""
    return st.sampled_from(sorted(FAULTS))
