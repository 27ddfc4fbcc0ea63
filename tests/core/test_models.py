"""The instruments that name parts of a model and notice who is never trained."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from loopkit.models import Models, is_own
from loopkit.untouched import Untouched


class Holder:
    """A class that should be a module."""

    def __init__(self) -> None:
        self.linear = nn.Linear(2, 2)


def _net() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    net.plain = [nn.Linear(2, 2), net[0]]  # type: ignore[assignment]
    net.held = {"a": Holder(), 3: (nn.Parameter(torch.ones(2)),)}  # type: ignore[assignment]
    return net


def test_names_are_those_of_attributes_and_items_and_registered_ones_come_first() -> None:
    models, net = Models(), _net()
    models.met(net)
    spots = models.parameters().values()
    assert [spot.name for spot in spots] == [
        "Sequential.0.weight",
        "Sequential.0.bias",
        "Sequential.plain[0].weight",
        "Sequential.plain[0].bias",
        "Sequential.held['a'].linear.weight",
        "Sequential.held['a'].linear.bias",
        "Sequential.held[3][0]",
    ]
    assert [spot.loose for spot in spots] == ["", "", *["Sequential.plain"] * 2, *["Sequential.held"] * 3]


def test_a_list_of_registered_parameters_hides_nothing() -> None:
    models, net = Models(), nn.Sequential(nn.Linear(2, 2))
    net.all = list(net.parameters())  # type: ignore[assignment]
    models.met(net)
    assert {spot.loose for spot in models.parameters().values()} == {""}


def test_a_wrapper_of_torch_is_not_the_root() -> None:
    models, net = Models(), _net()
    models.met(nn.DataParallel(net))
    assert models.roots() == [net]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_scripted_module_is_one_like_any_other() -> None:
    models, net = Models(), torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    models.met(net)
    assert len(models.parameters()) == 2


def test_a_module_inside_another_root_is_no_root_and_the_dead_are_forgotten() -> None:
    models, net = Models(), _net()
    models.met(net[0])  # type: ignore[index]
    models.met(net)
    assert models.roots() == [net]
    del net
    gc.collect()
    assert models.roots() == []
    assert models.parameters() == {}


def test_only_training_calls_with_gradients_count() -> None:
    models, (one, two, three) = Models(), (nn.Linear(2, 2), nn.Linear(2, 2).eval(), nn.Linear(2, 2))
    models.ran(one)
    models.ran(two)
    with torch.no_grad():
        models.ran(three)
    assert [models.was_called(each) for each in (one, two, three)] == [True, False, False]
    assert models.was_called(nn.Sequential(nn.Tanh(), one))


def test_whose_class_puts_a_module_together() -> None:
    models = Models()
    net = nn.TransformerEncoderLayer(4, 1)
    models.met(net)
    assert all(is_own(spot) for spot in models.modules())  # torch's own classes say nothing of who wrote the model


def test_a_model_is_known_until_too_many_are() -> None:
    models = Models()
    nets = [nn.Linear(1, 1) for _ in range(200)]
    for net in nets:
        models.met(net)
    assert models.roots() == nets[-64:]


def test_untouched_until_it_is_changed_in_any_way() -> None:
    def change_in_place(parameter: nn.Parameter) -> None:
        with torch.no_grad():
            parameter.add_(1)

    def change_data(parameter: nn.Parameter) -> None:
        parameter.data.add_(1)

    def replace_data(parameter: nn.Parameter) -> None:
        parameter.data = parameter.data + 1

    for change in (change_in_place, change_data, replace_data):
        untouched, parameter = Untouched(), nn.Parameter(torch.ones(3))
        assert untouched.ask(parameter, 10) == (0, 1)
        assert not untouched.confirm([parameter])  # nothing to compare with yet
        assert untouched.ask(parameter, 14) == (4, 2)
        assert untouched.confirm([parameter])
        change(parameter)
        assert untouched.ask(parameter, 15) == (0, 0) or not untouched.confirm([parameter])
        assert untouched.ask(parameter, 16) == (0, 0)
