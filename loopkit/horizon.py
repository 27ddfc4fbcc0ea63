"""Where a schedule ends, in advances of its scheduler: read once, from the attributes of torch's own schedulers."""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from typing import Any

from torch.optim import lr_scheduler as torchs

from loopkit.schedule import Shape

_NUMBERS = 16  # integers remembered of a user's function
_FRACTIONS = 64
_DEEPEST = 3  # functions within functions


def shape_of(scheduler: Any) -> Shape:
    """The shape of a schedule; an empty one where the class is not known."""
    with suppress(AttributeError, TypeError, ValueError):  # a user's subclass may lack or change what torch's have
        return _shape(scheduler)
    return Shape()


def _shape(scheduler: Any) -> Shape:
    if isinstance(scheduler, torchs.SequentialLR):
        return _sequential(scheduler)
    if isinstance(scheduler, torchs.ChainedScheduler):
        return _chained(scheduler)
    if isinstance(scheduler, torchs.CosineAnnealingWarmRestarts | torchs.CyclicLR):
        return Shape(cycles=True)
    if isinstance(scheduler, torchs.CosineAnnealingLR):
        return Shape(horizon=_whole(scheduler.T_max), climbs=True)
    if isinstance(scheduler, torchs.OneCycleLR):
        return Shape(horizon=_whole(scheduler.total_steps))
    if isinstance(scheduler, torchs.PolynomialLR):
        return Shape(horizon=_whole(scheduler.total_iters))
    if isinstance(scheduler, torchs.LinearLR):
        rises = scheduler.end_factor > scheduler.start_factor
        length = _whole(scheduler.total_iters)
        return Shape(warmup=length) if rises else Shape(horizon=length, levels=True)
    if isinstance(scheduler, torchs.ConstantLR):
        return Shape(warmup=_whole(scheduler.total_iters))
    if isinstance(scheduler, torchs.StepLR):
        return Shape(every=_whole(scheduler.step_size), decays=scheduler.gamma < 1)
    if isinstance(scheduler, torchs.MultiStepLR):
        last = max(scheduler.milestones, default=None)
        return Shape(horizon=_whole(last), levels=True, decays=scheduler.gamma < 1)
    if isinstance(scheduler, torchs.ReduceLROnPlateau):
        return Shape(decays=scheduler.factor < 1, mode=scheduler.mode)
    if isinstance(scheduler, torchs.ExponentialLR):
        return Shape(decays=scheduler.gamma < 1)
    if isinstance(scheduler, torchs.LambdaLR):
        return _of_functions(scheduler.lr_lambdas)
    return Shape()


def _sequential(scheduler: Any) -> Shape:
    """One after another: the last member's end, counted from where it begins."""
    members = [shape_of(each) for each in scheduler._schedulers]
    milestones = list(scheduler._milestones)
    if any(each.cycles for each in members):
        return Shape(cycles=True)
    last = members[-1]
    begins = milestones[-1] if milestones else 0
    horizon = None if last.horizon is None else begins + last.horizon
    warms = len(members) > 1 and members[0].warmup is not None
    return Shape(
        horizon=horizon, warmup=_whole(milestones[0]) if warms else None, climbs=last.climbs, levels=last.levels
    )


def _chained(scheduler: Any) -> Shape:
    """All at once: the one that ends last."""
    members = [shape_of(each) for each in scheduler._schedulers]
    if any(each.cycles for each in members):
        return Shape(cycles=True)
    ending = max(members, key=lambda each: each.horizon or 0)
    warmup = max((each.warmup for each in members if each.warmup is not None), default=None)
    return Shape(horizon=ending.horizon, warmup=warmup, climbs=ending.climbs, levels=ending.levels)


def _of_functions(functions: list[Any]) -> Shape:
    """Of a `LambdaLR`: transformers' own functions are partials with telling keywords; of others, their numbers."""
    function = functions[0] if functions else None
    if isinstance(function, functools.partial) and "num_warmup_steps" in function.keywords:
        words = function.keywords
        warmup, horizon = _whole(words["num_warmup_steps"]), _whole(words.get("num_training_steps"))
        if words.get("num_decay_steps") is not None:
            parts = [_whole(words.get(f"num_{part}_steps")) for part in ("warmup", "stable", "decay")]
            horizon = sum(part or 0 for part in parts)
        climbs = "cosine" in function.func.__name__ and words.get("num_cycles") == 0.5
        return Shape(horizon=horizon, warmup=warmup or None, climbs=climbs)
    fractions: set[float] = set()
    with suppress(Exception):  # what a user's globals answer to being looked at is their own affair
        fractions = {number for each in functions for number in _fractions(each)}
    return Shape(
        numbers=tuple(sorted(_numbers(function)))[:_NUMBERS], fractions=tuple(sorted(fractions))[:_FRACTIONS]
    )


def _numbers(function: Any) -> set[int]:
    """The integers a function can see: in its closure, its keywords, its defaults, and the globals that it names."""
    if isinstance(function, functools.partial):
        held = [*function.args, *function.keywords.values()]
        return _integers(held) | _numbers(function.func)
    code = getattr(function, "__code__", None)
    if code is None:
        return _integers(vars(function).values()) if hasattr(function, "__dict__") else set()
    held = [*(function.__defaults__ or ())]
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    held += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    return _integers(held)


def _integers(values: Any) -> set[int]:
    return {value for value in values if type(value) is int and value > 0}


def _whole(value: Any) -> int | None:
    """A length in advances; None of what is no plain number, and of one that never comes."""
    return int(value) if isinstance(value, int | float) and 0 < value < 1 << 62 else None


def _fractions(function: Any, depth: int = 0) -> set[float]:
    """Numbers between 0 and 1 in what a function can see: its constants too, and fields of objects and functions."""
    if isinstance(function, functools.partial):
        held = [*function.args, *function.keywords.values(), function.func]
    elif (code := getattr(function, "__code__", None)) is None:
        held = list(vars(function).values()) if hasattr(function, "__dict__") else []
        held.append(vars(type(function)).get("__call__"))
    else:
        held = [*code.co_consts, *(function.__defaults__ or ()), getattr(function, "__self__", None)]
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                held.append(cell.cell_contents)
        held += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    found: set[float] = set()
    for each in held:
        if isinstance(each, float):
            found.add(each)
        elif isinstance(each, dict):
            found |= {value for value in each.values() if isinstance(value, float)}
        elif callable(each) and depth < _DEEPEST and not isinstance(each, type):
            found |= _fractions(each, depth + 1) if hasattr(each, "__code__") or depth == 0 else set()
        elif each is not None and not inspect.ismodule(each) and hasattr(each, "__dict__"):
            found |= {value for value in list(vars(each).values()) if isinstance(value, float)}
    return {number for number in found if 0 < number < 1}
