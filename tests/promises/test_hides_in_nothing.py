"""Promise 3: saving, pickling, copying, compiling, checkpointing and forking work as without a watch."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import loopkit
from tests.loops import adamw, loader, loss_of, model, textbook
from tests.watched import events


class Own(nn.Module):
    """A module class of the user's, so that pickle finds it by name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out


def _trained() -> tuple[Own, torch.optim.Optimizer, Any]:
    net = Own()
    optimizer = adamw(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for x, y in loader():
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()
        scheduler.step()
    return net, optimizer, scheduler


def test_what_is_saved_and_pickled_has_nothing_of_ours_in_it() -> None:
    torch.manual_seed(3)
    bare = [vars(thing).keys() for thing in _trained()]
    with loopkit.watch(skip=["console"]):
        torch.manual_seed(3)
        net, optimizer, scheduler = _trained()
        assert [vars(thing).keys() for thing in (net, optimizer, scheduler)] == bare
        buffer = io.BytesIO()
        torch.save(net, buffer)
        for pickled in (
            buffer.getvalue(),
            pickle.dumps(net),
            pickle.dumps(optimizer),
            pickle.dumps(net.state_dict()),
        ):
            assert b"loopkit" not in pickled
        twin = copy.deepcopy(net)
        assert copy.deepcopy(optimizer).state_dict().keys() == optimizer.state_dict().keys()
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    x = torch.randn(2, 4)
    assert torch.equal(again(x), net(x))
    assert torch.equal(twin(x), net(x))


def test_a_wrapper_pickled_with_its_class_is_empty() -> None:
    from loopkit.taps.module import _Depth
    from loopkit.taps.patch import Cell

    with loopkit.watch(autoload=False) as run:
        assert pickle.loads(pickle.dumps(Cell(run))).run is None
    assert pickle.loads(pickle.dumps(_Depth())).models is None


def _graph_breaks(watched: bool) -> tuple[int, int]:
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    net = Own()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        net(x).mean().backward()
        optimizer.step()

    compiled = torch.compile(step, backend="eager")
    if watched:
        with loopkit.watch(skip=["console"]) as run:
            textbook(2)
            for _ in range(100):  # beyond the updates of which every event is timed
                compiled(torch.ones(2, 4))
            assert not run.failures
    else:
        textbook(2)
        for _ in range(100):
            compiled(torch.ones(2, 4))
    return sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]


def test_a_compiled_step_has_no_more_graph_breaks() -> None:
    assert _graph_breaks(watched=True) == _graph_breaks(watched=False)


@pytest.mark.parametrize("when", ["compiled before", "compiled inside"])
def test_a_model_compiled_as_one_graph_is_heard_and_not_broken(when: str) -> None:
    import torch._dynamo

    torch._dynamo.reset()
    net = model()
    compiled: Any = torch.compile(net, backend="eager", fullgraph=True) if when == "compiled before" else None

    def loop() -> None:
        forward = compiled or torch.compile(net, backend="eager", fullgraph=True)
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(forward(x), y).backward()
            optimizer.step()

    assert events(loop) == " ".join(["D z f b s< s>"] * 4)
    with loopkit.watch(skip=["console"]) as run:
        loop()
    assert run.findings == []
    assert ("*", "regions inside torch.compile are opaque") in run.not_checked()


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_is_one_forward(reentrant: bool) -> None:
    class Checkpointed(Own):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = checkpoint(self.inner, x, use_reentrant=reentrant)
            return out

    def loop() -> None:
        net = Checkpointed()
        optimizer = adamw(net)
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x.requires_grad_()), y).backward()
            optimizer.step()

    assert events(loop) == " ".join(["D z f b s< s>"] * 4)


def test_symbolic_trace_sees_leaf_modules_as_leaves() -> None:
    from torch import fx

    net = Own()
    with loopkit.watch(autoload=False):
        loss_of(net(torch.ones(2, 4)), torch.ones(2, 2)).backward()
        traced = fx.symbolic_trace(net)
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]


def _steps_in_a_child(queue: Any) -> None:
    textbook(3)
    run = loopkit.current_run()
    queue.put((os.getpid(), run is None))


def test_a_forked_child_is_left_alone() -> None:
    context = multiprocessing.get_context("fork")
    with loopkit.watch(autoload=False) as run:
        textbook(2)
        queue = context.Queue()
        child = context.Process(target=_steps_in_a_child, args=(queue,))
        child.start()
        pid, unwatched = queue.get(timeout=60)
        child.join()
    assert pid != os.getpid()
    assert unwatched
    assert run.steps == 2


def test_no_batch_and_no_graph_is_kept() -> None:
    import gc
    import weakref

    kept: list[weakref.ref[torch.Tensor]] = []
    net = model()
    optimizer = adamw(net)
    with loopkit.watch(skip=["console"]):
        for x, y in loader():
            optimizer.zero_grad()
            loss = loss_of(net(x), y)
            loss.backward()
            optimizer.step()
            kept += [weakref.ref(x), weakref.ref(y), weakref.ref(loss)]
        del x, y, loss
        gc.collect()
        assert [reference() for reference in kept] == [None] * len(kept)
        grads = [weakref.ref(parameter.grad) for parameter in net.parameters() if parameter.grad is not None]
        whole = weakref.ref(net)
        del net, optimizer
        gc.collect()
        assert whole() is None
        assert all(grad() is None for grad in grads)


def test_a_compiled_model_is_not_compiled_again_when_the_root_is_found() -> None:
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    net = Own()
    optimizer = adamw(net)
    compiled = torch.compile(net, backend="eager")
    with loopkit.watch(skip=["console"]):
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(compiled(x), y).backward()
            optimizer.step()
    assert counters["stats"]["unique_graphs"] == 1
