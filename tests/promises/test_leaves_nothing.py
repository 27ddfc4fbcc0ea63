"""Promise 2: after the watch every patched attribute is the identical object it was, also after an exception."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset, dataloader

import loopkit
from loopkit import StopTraining, hookimpl
from loopkit.testing.torchstate import differences, picture
from tests.loops import adamw, batches, loader, loss_of, model, textbook
from tests.watched import Events


def _raise(error: BaseException) -> Callable[[], None]:
    def loop() -> None:
        textbook(2)
        raise error

    return loop


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_after_an_exception(error: BaseException) -> None:
    before = picture()
    with pytest.raises(type(error)), loopkit.watch(skip=["console"]):
        _raise(error)()
    assert differences(before, picture()) == []


def test_the_picture_sees_an_open_watch() -> None:
    before = picture()
    with loopkit.watch(autoload=False):
        textbook(2)
        assert len(differences(before, picture())) > 8


@given(st.lists(st.sampled_from(["open", "first", "last", "train", "fail"]), max_size=12))
def test_watches_nest_and_close_in_any_order(order: list[str]) -> None:
    before = picture()
    watches: list[Any] = []
    runs = []
    try:
        for what in order:
            if what == "open":
                watches.append(loopkit.watch(autoload=False, plugins=[Events()]))
                runs.append(watches[-1].__enter__())
            elif what == "train":
                textbook(1)
            elif what == "fail":
                with pytest.raises(RuntimeError):
                    model()(torch.ones(1, 99))
            elif watches:
                watches.pop(0 if what == "first" else -1).__exit__(None, None, None)
            if watches:
                assert loopkit.current_run() is runs[-1]
    finally:
        for watch in watches:
            watch.__exit__(None, None, None)
    assert differences(before, picture()) == []


def test_a_watch_inside_a_watch_joins_its_run_and_hears_until_it_closes() -> None:
    inner, outer = Events(), Events()
    with loopkit.watch(autoload=False, plugins=[outer]) as one:
        with loopkit.watch(autoload=False, plugins=[inner]) as other:
            textbook(1)
        textbook(1)
    assert one is other
    assert inner.seen == ["D", "z", "f", "b", "c", "s<", "s>", "L"]
    assert outer.seen == inner.seen * 2


def test_what_an_inner_watch_ignores_is_ignored_until_it_closes() -> None:
    def never_clears() -> None:
        net = model()
        optimizer = adamw(net)
        for x, y in loader():
            loss_of(net(x), y).backward()
            optimizer.step()

    with loopkit.watch(skip=["console"]) as run:
        with loopkit.watch(skip=["console"], ignore=["missing-zero-grad"]):
            never_clears()
            textbook(1)  # closes the last update
        assert run.findings == []
        assert [reason for _, reason in run.silenced] == ["ignored by name"]


def test_a_wrapper_imported_meanwhile_goes_inert() -> None:
    heard = Events()
    with loopkit.watch(autoload=False, plugins=[heard]):
        backward, clip = torch.autograd.backward, torch.nn.utils.clip_grad_value_
        clear = torch.optim.Optimizer.zero_grad
    net = model()
    backward(net(torch.ones(1, 4)).sum())
    clip(net.parameters(), 1.0)
    clear(adamw(net))
    assert heard.seen == []
    assert all(parameter.grad is None for parameter in net.parameters())


def test_another_tools_patch_on_top_of_ours_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.autograd.backward
    calls = []
    with ExitStack() as stack:
        stack.enter_context(loopkit.watch(autoload=False))
        ours = torch.autograd.backward

        def theirs(*args: Any, **kwargs: Any) -> None:
            calls.append(1)
            ours(*args, **kwargs)

        monkeypatch.setattr(torch.autograd, "backward", theirs)
    assert torch.autograd.backward is theirs
    model()(torch.ones(1, 4)).sum().backward()
    assert calls == [1]
    monkeypatch.undo()
    torch.autograd.backward = original


def test_stop_training_leaves_the_with_block_quietly() -> None:
    class Stop:
        @hookimpl
        def after_step(self) -> None:
            raise StopTraining("enough")

    with loopkit.watch(autoload=False, plugins=[Stop()]) as run:
        textbook(4)
        pytest.fail("training went on")
    assert run.steps == 1


def test_a_decorated_function_is_watched_at_every_call() -> None:
    heard = Events()

    @loopkit.watch(autoload=False, plugins=[heard])
    def train(steps: int) -> int:
        textbook(steps)
        return steps

    assert train(2) == 2
    assert train(1) == 1
    assert heard.seen.count("s>") == 3


def test_a_second_thread_is_not_mixed_in() -> None:
    with loopkit.watch(autoload=False) as run:
        textbook(2)
        thread = threading.Thread(target=textbook, args=(3,))
        thread.start()
        thread.join()
    assert run.steps == 2


def test_the_users_traceback_shows_none_of_our_frames() -> None:
    net = model()

    def forward() -> Any:
        return net(torch.ones(1, 99))

    def backward() -> Any:
        return net(torch.ones(2, 4)).backward()  # not a scalar

    def clear() -> Any:
        return adamw(net).zero_grad(nonsense=1)  # type: ignore[call-arg]

    with loopkit.watch(autoload=False):
        for x, y in batches(1):
            loss_of(net(x), y).backward()
        for fail in (forward, backward, clear):
            with pytest.raises((RuntimeError, TypeError)) as caught:
                fail()
            files = [entry.path for entry in caught.traceback]
            assert not [file for file in files if "/loopkit/" in str(file).replace("/tests/", "")], files


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (nn.Linear, "__call__"),
        (torch.optim.Optimizer, "zero_grad"),
        (torch.autograd, "backward"),
        (LambdaLR, "_update_lr"),
        (dataloader._SingleProcessDataLoaderIter, "_next_data"),
    ],
)
def test_what_somebody_put_over_ours_works_after_the_watch(owner: Any, name: str) -> None:
    own = vars(owner).get(name)
    net = nn.Linear(4, 3)

    def train() -> None:
        optimizer = adamw(net)
        scheduler = LambdaLR(optimizer, lambda step: 1.0)
        for x, _ in DataLoader(TensorDataset(torch.randn(4, 4), torch.zeros(4))):
            optimizer.zero_grad()
            net(x).sum().backward()
            optimizer.step()
            scheduler.step()

    try:
        with loopkit.watch(autoload=False):
            train()
            ours = getattr(owner, name)
            assert ours is not own
            setattr(owner, name, lambda *args, **kwargs: ours(*args, **kwargs))
        train()
    finally:
        setattr(owner, name, own) if own is not None else delattr(owner, name)
