"""stochastic-op-in-eval: found where it is, silent on what looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import dropout

from loopkit import Confidence, Severity
from tests.loops import adamw, batches, loss_of
from tests.watched import find, line_of, rules


class Net(nn.Module):
    """A linear layer around something that a test gives."""

    def __init__(self, middle: Callable[[nn.Module, Tensor], Tensor], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.middle = middle
        self.inner = inner or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.inner(self.middle(self, self.first(x))))
        return out


def run(net: nn.Module, evaluations: int = 2, times: int = 1) -> None:
    optimizer = adamw(net)
    for _ in range(evaluations):
        net.train()
        for x, y in batches(4):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            optimizer.step()
        net.eval()
        given = torch.randn(4, 4)
        with torch.no_grad():
            for _ in range(times):
                net(given)


def always_on(net: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(x, 0.4)


def functional_dropout() -> None:
    run(Net(always_on))


SNAPSHOTS = {"stochastic-op-in-eval": functional_dropout}


def test_found_at_the_call_of_the_function() -> None:
    (finding,) = find(functional_dropout)
    assert finding.rule == "stochastic-op-in-eval"
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(always_on, "F.dropout")
    assert finding.step == 4
    assert "p = 0.4" in finding.seen


def by_name(net: nn.Module, x: Tensor) -> Tensor:
    return dropout(x, 0.4)


def of_torch(net: nn.Module, x: Tensor) -> Tensor:
    always = True
    return torch.dropout(x, 0.4, always)


def of_features(net: nn.Module, x: Tensor) -> Tensor:
    return F.dropout1d(x[..., None], 0.4)[..., 0]


def in_attention(net: nn.Module, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.1)[0]


@pytest.mark.parametrize("middle", [by_name, of_torch, of_features, in_attention])
def test_found_however_it_is_called(middle: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert rules(lambda: run(Net(middle))) == ["stochastic-op-in-eval"]


def test_found_in_the_only_evaluation_of_a_run() -> None:
    assert rules(lambda: run(Net(always_on), evaluations=1)) == ["stochastic-op-in-eval"]


def told(net: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(x, 0.4, training=net.training)


def meant(net: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(
        x,
        0.4,
        training=True,
    )


def of_zero(net: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(x, 0.0)


def noise(net: nn.Module, x: Tensor) -> Tensor:
    return x + torch.randn_like(x) + torch.bernoulli(torch.full_like(x, 0.5))


def careful_attention(net: nn.Module, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.1 if net.training else 0.0)[0]


@pytest.mark.parametrize("middle", [told, meant, of_zero, noise, careful_attention])
def test_silent_on(middle: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert rules(lambda: run(Net(middle))) == []


def test_silent_where_one_input_is_given_several_times() -> None:
    assert rules(lambda: run(Net(always_on), times=8)) == []


def test_silent_on_layers_that_know_their_mode() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    assert rules(lambda: run(Net(lambda net, x: x[None], nn.Sequential(layer, nn.Flatten(0, 1))))) == []


def test_silent_on_dropout_put_awake() -> None:
    def loop() -> None:
        net = Net(told, nn.Dropout(0.2))
        run(net)
        net.inner.train()
        with torch.no_grad():
            net(torch.randn(4, 4))

    assert rules(loop) == []


def test_a_forward_that_raises_leaves_nothing_behind() -> None:
    before = torch.dropout, F.scaled_dot_product_attention, dict(vars(torch._VF))

    def loop() -> None:
        net = Net(always_on)
        run(net)
        with torch.no_grad(), pytest.raises(RuntimeError):
            net(torch.randn(4, 99))
        assert dict(vars(torch._VF)) == before[2]

    assert "stochastic-op-in-eval" in rules(loop)
    assert (torch.dropout, F.scaled_dot_product_attention, dict(vars(torch._VF))) == before
