"""Laws of `Loop`: accumulation is one batch, a resumed run is one run, and a loop by hand is the same loop."""

from __future__ import annotations

import copy
import io
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import loopkit
from loopkit import History, Loop

CLASSES = 3
IGNORED = -100


# -- accumulation is one batch ---------------------------------------------------------------------------------


@dataclass
class Windows:
    """Batches of token labels, some ignored; windows of `accumulate`, the last perhaps short."""

    batches: list[tuple[Tensor, Tensor]]
    accumulate: int

    def windows(self) -> list[list[tuple[Tensor, Tensor]]]:
        return [self.batches[i : i + self.accumulate] for i in range(0, len(self.batches), self.accumulate)]


@st.composite
def token_batches(draw: st.DrawFn) -> Windows:
    seed = draw(st.integers(0, 2**16))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=7))
    shares = draw(st.lists(st.sampled_from([0.0, 0.3, 0.9, 1.0]), min_size=len(sizes), max_size=len(sizes)))
    generator = torch.Generator().manual_seed(seed)
    made = []
    for size, share in zip(sizes, shares, strict=True):
        x = torch.randn(size, 5, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(0, CLASSES, (size, 5), generator=generator)
        y[torch.rand(size, 5, generator=generator) < share] = IGNORED
        made.append((x, y))
    return Windows(made, draw(st.integers(1, 4)))


class Tagger(nn.Module):
    """Classes for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, CLASSES, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).transpose(1, 2)  # type: ignore[no-any-return]


class Own(Tagger):
    """Returns its own loss."""

    def forward(self, x: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
        logits = super().forward(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class ToldForCausalLM(Tagger):
    """Predicts the next token, as models for which HF counts the items of a window do."""

    def forward(self, x: Tensor, labels: Tensor, num_items_in_batch: Any = None) -> Any:  # type: ignore[override]
        logits, shifted = super().forward(x)[..., :-1], labels[:, 1:]
        summed = nn.functional.cross_entropy(logits, shifted, reduction="sum")
        return {"loss": summed / ((shifted != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)}


class NextForCausalLM(Tagger):
    """The same, for which nobody counts."""

    def forward(self, x: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
        return {"loss": nn.functional.cross_entropy(super().forward(x)[..., :-1], labels[:, 1:])}


def plain(x: Tensor, y: Tensor) -> Any:
    return x, y


def named(x: Tensor, y: Tensor) -> Any:
    return {"x": x, "labels": y}


def one_hot(x: Tensor, y: Tensor) -> Any:
    return x, nn.functional.one_hot(y.clamp(min=0), CLASSES).double().transpose(1, 2)


Case = tuple[type[Tagger], Callable[[], Any], Callable[[Tensor, Tensor], Any]]
WEIGHED = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
CASES: dict[str, Case] = {
    "cross-entropy": (Tagger, nn.CrossEntropyLoss, plain),
    "of a function": (Tagger, lambda: nn.functional.cross_entropy, plain),
    "of a lambda": (Tagger, lambda: lambda output, target: nn.functional.cross_entropy(output, target), plain),
    "another class ignored": (Tagger, lambda: nn.CrossEntropyLoss(ignore_index=1), lambda x, y: (x, y.clamp(min=1))),
    "class weights": (Tagger, lambda: nn.CrossEntropyLoss(weight=WEIGHED), plain),
    "smoothed": (Tagger, lambda: nn.CrossEntropyLoss(label_smoothing=0.1), plain),
    "a sum": (Tagger, lambda: nn.CrossEntropyLoss(reduction="sum"), plain),
    "mean square": (Tagger, nn.MSELoss, one_hot),
    "its own loss": (Own, lambda: None, named),
    "told the count": (ToldForCausalLM, lambda: None, named),
    "next token": (NextForCausalLM, lambda: None, named),
}


class Gradients:
    """Keeps what each update used, and steps nowhere."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[list[Tensor]] = []
        self.model = model

    @loopkit.hookimpl
    def before_step(self) -> None:
        self.seen.append([each.grad.clone() for each in self.model.parameters() if each.grad is not None])


def whole(windows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in windows]), torch.cat([y for _, y in windows])


def by_hand(model: Tagger, loss: Any, batch: Any) -> list[Tensor]:
    """The gradient of a window that is one batch."""
    value = model(**batch)["loss"] if loss is None else loss(model(batch[0]), batch[1])
    return list(torch.autograd.grad(value, list(model.parameters())))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(data=token_batches())
def test_the_gradient_of_a_window_is_that_of_one_batch(name: str, data: Windows) -> None:
    kind, make_loss, form = CASES[name]
    model, loss = kind(), make_loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    kept = Gradients(model)
    batches = [form(x, y) for x, y in data.batches]
    Loop(model, optimizer, batches, loss=loss, accumulate=data.accumulate, plugins=[kept], autoload=False).run(
        epochs=1
    )
    assert len(kept.seen) == len(data.windows())
    for found, window in zip(kept.seen, data.windows(), strict=True):
        for one, other in zip(found, by_hand(model, loss, form(*whole(window))), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# -- a resumed run is one run ----------------------------------------------------------------------------------


class Noise(nn.Module):
    """Draws from each source of chance there is."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * 0.01 + random.random() * 0.01


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), Noise(), nn.Linear(4, 2))


FEATURES = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))
ROWS = TensorDataset(FEATURES, FEATURES[:, :2].clone())


class Shuffled:
    """A user's own loader, which draws from Python's chance."""

    def __iter__(self) -> Any:
        order = list(range(6))
        random.shuffle(order)
        for i in order:
            yield FEATURES[2 * i : 2 * i + 2], FEATURES[2 * i : 2 * i + 2, :2]


def own_generator() -> DataLoader[Any]:
    return DataLoader(ROWS, 2, shuffle=True, generator=torch.Generator().manual_seed(5))


def drawn_again() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(6)
    return DataLoader(ROWS, 2, sampler=RandomSampler(ROWS, replacement=True, num_samples=40, generator=generator))


def in_workers() -> DataLoader[Any]:
    return DataLoader(ROWS, 2, shuffle=True, num_workers=2)


def kept_workers() -> DataLoader[Any]:
    return DataLoader(ROWS, 2, shuffle=True, num_workers=2, persistent_workers=True)


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(ROWS, 2, shuffle=True),
    "own generator": own_generator,
    "with replacement": drawn_again,
    "sample by sample": lambda: DataLoader(ROWS, batch_size=None, shuffle=True, collate_fn=_one),
    "a list": lambda: [(FEATURES[i : i + 2], FEATURES[i : i + 2, :2]) for i in range(0, 14, 2)],
    "own loader": Shuffled,
}


def _one(row: Any) -> tuple[Tensor, Tensor]:
    return row[0].repeat(2, 1), row[1].repeat(2, 1)


def loop(make: Callable[[], Iterable[Any]], accumulate: int = 1, per: str = "update") -> Loop:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    rows = DataLoader(ROWS, 7, shuffle=True)
    return Loop(
        model,
        optimizer,
        make(),
        loss=nn.functional.mse_loss,
        scheduler=scheduler,
        scheduler_per=per,
        eval_loader=rows,
        accumulate=accumulate,
        clip_norm=1.0,
        autoload=False,
    )


def begin() -> None:
    torch.manual_seed(3)
    random.seed(3)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """Only plain data survives this."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def assert_resumes(make: Callable[[], Any], n: int, k: int, accumulate: int = 1, per: str = "update") -> None:
    begin()
    straight = loop(make, accumulate, per)
    straight.run(max_updates=n)
    expected = through_a_file(straight.state_dict())

    begin()
    first = loop(make, accumulate, per)
    first.run(max_updates=k)
    state = through_a_file(first.state_dict())

    random.seed(99)
    torch.manual_seed(99)
    second = loop(make, accumulate, per)
    second.load_state_dict(state)
    second.run(max_updates=n)
    assert same(expected, second.state_dict())
    assert straight.history.rows == first.history.rows + second.history.rows


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("k", range(1, 9))
def test_a_run_that_was_resumed_is_one_run(name: str, k: int) -> None:
    assert_resumes(LOADERS[name], 11, k)


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(LOADERS)),
    n=st.integers(1, 15),
    part=st.floats(0, 1),
    accumulate=st.integers(1, 4),
    per=st.sampled_from(["update", "epoch"]),
)
def test_however_it_is_cut(name: str, n: int, part: float, accumulate: int, per: str) -> None:
    assert_resumes(LOADERS[name], n, round(part * n), accumulate, per)


@pytest.mark.parametrize("k", [3, 7, 9])
def test_with_workers_too(k: int) -> None:
    assert_resumes(in_workers, 11, k)


def test_with_workers_that_stay_too() -> None:
    assert_resumes(kept_workers, 12, 9)


@given(cuts=st.lists(st.integers(1, 12), max_size=3))
@settings(max_examples=8)
def test_one_loop_run_in_parts_is_the_same(cuts: list[int]) -> None:
    begin()
    straight = loop(LOADERS["shuffled"])
    straight.run(max_updates=12)
    expected = through_a_file(straight.state_dict())
    begin()
    parts = loop(LOADERS["shuffled"])
    for cut in [*sorted(cuts), 12]:
        parts.run(max_updates=cut)
    assert same(expected, parts.state_dict())
    assert straight.history == parts.history


def test_a_state_is_not_changed_by_what_it_is_loaded_into() -> None:
    first = loop(LOADERS["shuffled"])
    first.run(max_updates=3)
    state = copy.deepcopy(first.state_dict())
    kept = copy.deepcopy(state)
    second = loop(LOADERS["shuffled"])
    second.load_state_dict(state)
    second.run(max_updates=9)
    assert same({**state, "model": 0, "optimizer": 0}, {**kept, "model": 0, "optimizer": 0})


# -- by hand ---------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    epochs=st.integers(1, 3),
    clip=st.none() | st.floats(0.01, 2.0),
    seed=st.integers(0, 2**16),
    autoload=st.booleans(),
)
@settings(max_examples=25)
def test_a_loop_by_hand_is_the_same(
    sizes: list[int], epochs: int, clip: float | None, seed: int, autoload: bool
) -> None:
    torch.manual_seed(seed)
    batches = [(torch.randn(size, 4), torch.randint(0, 3, (size,))) for size in sizes]
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 3))
    other = copy.deepcopy(model)
    chance = torch.get_rng_state()

    optimizer = torch.optim.AdamW(other.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    losses = []
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(other(x), y)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(other.parameters(), clip)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    after = torch.get_rng_state()

    torch.set_rng_state(chance)
    mine = torch.optim.AdamW(model.parameters(), lr=0.01)
    history = Loop(
        model,
        mine,
        batches,
        loss=nn.functional.cross_entropy,
        scheduler=torch.optim.lr_scheduler.ExponentialLR(mine, 0.9),
        clip_norm=clip,
        autoload=autoload,
        skip=["console"],
    ).run(epochs=epochs)
    assert same(model.state_dict(), other.state_dict())
    assert same(mine.state_dict(), optimizer.state_dict())
    assert torch.equal(torch.get_rng_state(), after)
    assert [value for _, value in history.of("train/loss")] == losses


# -- the history -----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 10**9), st.text(), st.floats())))
def test_a_history_survives_dict_and_json(rows: list[tuple[int, str, float]]) -> None:
    history = History()
    for step, name, value in rows:
        history.add(name, value, step)
    assert History.from_dict(history.to_dict()) == history
    assert History.from_json(history.to_json()) == history
    assert len(history.rows) == len(rows)
    assert same([tuple(row) for row in History.from_json(history.to_json())], rows)
