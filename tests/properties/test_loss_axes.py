"""Whatever views lie between a layer and a loss: the axis said to hold the layer's features does hold them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from loopkit.lossinputs import operations

SIZES = (2, 3, 4)
FEATURES = 5
View = Callable[[Tensor], Tensor]


@st.composite
def views(draw: st.DrawFn) -> View:
    """One view of a tensor of any shape."""
    kind = draw(st.sampled_from(("transpose", "permute", "merge", "split", "unsqueeze", "slice", "cast", "t")))
    first, second = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    seed = draw(st.integers(0, 99))

    def view(x: Tensor) -> Tensor:
        count = x.dim()
        at = first % count
        if kind == "transpose":
            return x.transpose(at, second % count)
        if kind == "permute":
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
            return x.permute(order)
        if kind == "merge" and at + 1 < count:
            return x.flatten(at, at + 1)
        if kind == "split" and x.shape[at] % 2 == 0:
            return x.reshape(*x.shape[:at], 2, x.shape[at] // 2, *x.shape[at + 1 :])
        if kind == "unsqueeze" and count < 6:
            return x.unsqueeze(at)
        if kind == "slice" and x.shape[at] > 1:
            return x.narrow(at, 0, x.shape[at] - 1)
        if kind == "t" and count == 2:
            return x.t()
        return x.double() if x.dtype == torch.float32 else x

    return view


@given(st.lists(views(), max_size=6))
@settings(max_examples=200)
def test_the_features_are_where_they_are_said_to_be(chosen: list[View]) -> None:
    scores = nn.Linear(4, FEATURES)(torch.randn(*SIZES, 4))
    feature = torch.arange(FEATURES).expand(*SIZES, FEATURES).float()
    for view in chosen:
        scores, feature = view(scores), view(feature)
    assert scores.shape == feature.shape
    found, features = operations((scores.grad_fn, 0), None, lambda _: False, set())
    assert found[-1].name == "Addmm"
    if features is not None:
        along = feature.movedim(features, 0)
        assert len(along.unique()) == len(along)
        assert all(len(row.unique()) == 1 for row in along)


@given(st.permutations(range(4)))
@settings(max_examples=24)
def test_a_permutation_is_always_followed(order: list[int]) -> None:
    scores = nn.Linear(4, FEATURES)(torch.randn(*SIZES, 4)).permute(order)
    _, features = operations((scores.grad_fn, 0), None, lambda _: False, set())
    assert features == order.index(3)
