"""Workers of a loader draw the same random numbers: from copies of one generator, or from one fixed seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import torch

from loopkit import Confidence, Feed, Finding, Run, Severity, hookimpl

_ENTRIES = ("__getitem__", "__getitems__", "__iter__", "__next__", "__call__", "forward")
"""What a worker calls of a dataset and of what it holds."""
_SEEDING = frozenset(
    {
        *("Generator", "Philox", "PCG64", "Random", "RandomState", "default_rng", "get_worker_info", "initial_seed"),
        *("jumped", "manual_seed", "seed", "set_state", "setstate", "spawn"),
    }
)
"""Whoever names one of these may give each sample or worker a state of its own."""
_DRAWING = frozenset(
    {"choice", "normal", "permutation", "rand", "randint", "randn", "random", "sample", "shuffle", "uniform"}
)
_DEEPEST, _MOST = 4, 256


class RngIdenticalAcrossWorkers:
    """Each worker of a training loader begins with the same random numbers, and so does each epoch.

    What it looks for
        A loader with workers whose dataset, or a transform in it, draws from a generator that it holds (of NumPy,
        Python or torch): a worker is a copy, so all begin in the state that the dataset has in the main process, and
        that does not move. Or a `worker_init_fn` that seeds with what is the same in each epoch, such as
        `np.random.get_state()[1][0] + worker_id`, which torch has made a constant.

    Why that hurts
        Augmentations repeat: the first sample of each worker gets the same ones, and every epoch gets those of the
        first. More epochs bring nothing new.

    A loop that has it
        class Data(Dataset):
            def __init__(self):
                self.rng = np.random.default_rng(0)
            def __getitem__(self, i):
                return self.x[i] + self.rng.normal(size=3), self.y[i]
        loader = DataLoader(Data(), num_workers=4)

    The repair
        Make the generator in the worker, seeded with `torch.utils.data.get_worker_info().seed`; in a `worker_init_fn`
        with `torch.initial_seed()`. Both are new in each epoch.

    Left alone
        Loaders without workers; generators that only the constructor uses; datasets that seed anew for each sample,
        or ask which worker they are in; a generator whose state the main process changes between epochs, in a single
        worker; one worker that is kept; a `worker_init_fn` of which it cannot be told what it seeds with.

    What it costs
        A search through the attributes of the dataset when a pass over a loader with workers ends, once a loader.
    """

    rule = "rng-identical-across-workers"
    severity = Severity.WARNING
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._states: dict[int, str] = {}
        self._said: set[int] = set()

    @hookimpl
    def loader_started(self, loader: Any, feed: Feed) -> None:
        """Note in which state a single worker begins."""
        if getattr(loader, "num_workers", 0) == 1 and not loader.persistent_workers:
            held = next(_held(loader.dataset), None)
            state = "" if held is None else _state(held[1])
            before, self._states[id(loader)] = self._states.get(id(loader)), state
            if before != state or feed.before is None:
                self._said.discard(id(feed))
            else:
                self._said.add(id(feed))

    @hookimpl
    def loader_exhausted(self, run: Run, loader: Any, feed: Feed) -> Iterator[Finding]:
        """Judge a pass that trained."""
        workers = getattr(loader, "num_workers", 0)
        if not workers or not feed.trained:
            return
        init = loader.worker_init_fn
        if init is not None:
            how = "" if loader.persistent_workers or feed.before is None else _fixed(init)
            if how and _draws(loader.dataset):
                seen = f"its worker_init_fn, {init.__name__}, {how}: each epoch begins with the same random numbers"
                yield self._finding(feed, seen, workers)
            return
        if workers == 1 and id(feed) not in self._said:
            return
        held = next(_held(loader.dataset), None)
        if held is not None:
            name, generator = held
            alike = f"each of its {workers} workers begins" if workers > 1 else "each epoch begins"
            yield self._finding(
                feed,
                f"samples are drawn with {name}, a {type(generator).__name__}: {alike} with the same copy",
                workers,
            )

    def _finding(self, feed: Feed, seen: str, workers: int) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=feed.site.place,
            seen=f"this loader has {workers} worker{'s' * (workers > 1)}; {seen}",
            why="random augmentations repeat across workers or epochs",
            remedy="make or seed the generator in the worker, with torch.utils.data.get_worker_info().seed",
            evidence={"workers": workers},
        )


def _held(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Generators that what a worker calls draws from, each with the name of the attribute."""
    waiting, met = [(type(dataset).__name__, dataset, 0)], set[int]()
    while waiting and len(met) < _MOST:
        path, owner, depth = waiting.pop()
        if id(owner) in met or depth > _DEEPEST:
            continue
        met.add(id(owner))
        if isinstance(owner, (list, tuple)):
            waiting += [(f"{path}[{n}]", each, depth + 1) for n, each in enumerate(owner[:16]) if _may_hold(each)]
            continue
        attributes = getattr(owner, "__dict__", {})
        names = _names(type(owner))
        for name, value in attributes.items():
            if _is_generator(value):
                if name in names and not names & _SEEDING:
                    yield f"{path}.{name}", value
            elif _may_hold(value):
                waiting.append((f"{path}.{name}", value, depth + 1))


def _may_hold(value: Any) -> bool:
    if isinstance(value, (torch.Tensor, type, FunctionType)):
        return False
    return isinstance(value, (list, tuple)) or hasattr(value, "__dict__")


def _is_generator(value: Any) -> bool:
    if isinstance(value, (torch.Generator, random.Random)):
        return True
    kind = type(value)
    return kind.__module__.startswith("numpy.random") and kind.__name__ in ("Generator", "RandomState")


def _state(generator: Any) -> str:
    for name in ("get_state", "getstate"):
        if hasattr(generator, name):
            state = getattr(generator, name)()
            return str(state.tolist()) if isinstance(state, torch.Tensor) else repr(state)
    return repr(getattr(generator, "bit_generator", generator).state)


def _names(owner: type) -> set[str]:
    """What the code that a worker runs of this class names, methods that it calls on itself included."""
    found: set[str] = set()
    waiting = [name for name in _ENTRIES if not _is_torchs(owner, name)]
    done: set[str] = set()
    while waiting:
        name = waiting.pop()
        code = getattr(getattr(owner, name, None), "__code__", None)
        if name in done or not isinstance(code, CodeType):
            continue
        done.add(name)
        named = _named(code)
        found |= named
        waiting += [each for each in named if isinstance(getattr(owner, each, None), FunctionType)]
    return found


def _is_torchs(owner: type, name: str) -> bool:
    return getattr(getattr(owner, name, None), "__module__", "").startswith("torch.")


def _named(code: CodeType) -> set[str]:
    found = {*code.co_names, *code.co_freevars}
    for each in code.co_consts:
        if isinstance(each, CodeType):
            found |= _named(each)
    return found


def _fixed(init: Any) -> str:
    """How a `worker_init_fn` seeds the same in each epoch; "" where that cannot be told."""
    code = getattr(init, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    names = _named(code)
    lowered = {name.lower() for name in names}
    if not {"random", "seed"} <= names or names & {"initial_seed", "get_worker_info", "urandom", "time"}:
        return ""
    if any("epoch" in name for name in lowered):
        return ""
    if "get_state" in names:
        return "seeds NumPy from its state, which torch has made the same in each epoch"
    known = {"np", "numpy", "random", "seed", "torch", "manual_seed"}
    others = {name for name in names - known if not name.isupper()}
    return "" if others else "seeds with the same numbers in each epoch"


def _draws(dataset: Any) -> bool:
    """Whether a dataset, or a transform in it, names something that draws random numbers."""
    waiting, met = [(dataset, 0)], set[int]()
    while waiting and len(met) < _MOST:
        owner, depth = waiting.pop()
        if id(owner) in met or depth > _DEEPEST:
            continue
        met.add(id(owner))
        if _names(type(owner)) & _DRAWING:
            return True
        inside = owner[:16] if isinstance(owner, (list, tuple)) else getattr(owner, "__dict__", {}).values()
        waiting += [(each, depth + 1) for each in inside if _may_hold(each)]
    return False
