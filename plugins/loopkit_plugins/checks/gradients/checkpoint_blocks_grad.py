"""A reentrant activation checkpoint around trainable layers, none of whose inputs requires a gradient."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch import nn

from loopkit import Confidence, Finding, Ledger, Run, Severity, Site, Update, hookimpl

_DEEPEST = 4
Suspects = dict[int, int]  # the version of each parameter, by `id`


class CheckpointBlocksGrad:
    """Layers inside a reentrant checkpoint get no gradient, because nothing that goes into it requires one.

    What it looks for
        `checkpoint(…, use_reentrant=True)` in a training forward, where no tensor argument requires a gradient and
        the layers inside are trainable and an optimizer's; and a step of that optimizer at which that many
        parameters had no gradient.

    Why that hurts
        The output of such a checkpoint does not require a gradient either: backward stops there. torch only warns,
        layers behind it still learn, and the loss still falls. Typical of adapters in a model with frozen embeddings.

    A loop that has it
        model.embed.requires_grad_(False)
        h = model.embed(tokens)
        h = checkpoint(model.block, h, use_reentrant=True)
        loss = criterion(model.head(h), y)

    The repair
        Pass `use_reentrant=False`, or make the inputs require a gradient: `h.requires_grad_()`, or
        `model.enable_input_require_grads()` of transformers.

    Left alone
        Frozen layers; evaluation and `no_grad()`; checkpoints without `use_reentrant=True`; layers that get their
        gradient by another call; functions of which it cannot be told what they run.

    What it costs
        A look at the arguments of each reentrant checkpoint. More only for those that are cut.
    """

    rule = "checkpoint-blocks-grad"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._suspects: dict[int, tuple[Site, str, Suspects]] = {}

    @hookimpl
    def checkpoint_cut(self, run: Run, function: Any, site: Site) -> None:
        """Note which of an optimizer's parameters are inside."""
        inside = list(_run_by(function))
        parameters = [each for module in inside if module.training for each in module.parameters()]
        trainable = {id(each): each._version for each in parameters if each.requires_grad}
        if trainable:
            name = ", ".join(dict.fromkeys(type(module).__name__ for module in inside))
            known = self._suspects.get(site.number, (site, name, {}))
            self._suspects[site.number] = site, name, {**trainable, **known[2]}

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Report where a step went without as many gradients as the checkpoint blocks."""
        if not self._suspects:
            return
        suspects, self._suspects = self._suspects, {}
        without = {step.number: step for _, step in update.steps() if step.without}
        for owner in run.instrument(Ledger).owners():
            owned = {id(each): each for each in owner.parameters()}
            for site, name, trainable in suspects.values():
                mine = [(owned[key], version) for key, version in trainable.items() if key in owned]
                step = without.get(owner.number)
                if not mine or step is None or step.without < len(mine):
                    continue
                if all(each.grad is None and each._version == version for each, version in mine):
                    yield self._finding(site, name, len(mine), owner.label, update.number)

    def _finding(self, site: Site, name: str, count: int, optimizer: str, number: int) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=site.place,
            places={"checkpoint": site.place},
            subject=name,
            seen=f"a reentrant checkpoint of {name} was called with no input that requires a gradient: its {count} "
            f"trainable parameters had none when {optimizer} stepped",
            why="backward stops at this checkpoint: what is inside is not trained by it, and torch only warns",
            remedy="pass use_reentrant=False, or make the input require a gradient (enable_input_require_grads())",
            evidence={
                "module": name,
                "parameters": count,
                "optimizer": optimizer,
                "checkpoint_frames": [str(place) for place in site.chain],
                "framework": str(site.framework) if site.framework else None,
            },
            step=number,
        )


def _run_by(function: Any, depth: int = 0) -> Iterator[nn.Module]:
    """The modules that a checkpointed function is sure to call; what cannot be told is left out."""
    if isinstance(function, nn.Module):
        yield function
    elif depth >= _DEEPEST:
        return
    elif isinstance(function, functools.partial):
        yield from _run_by(function.func, depth + 1)
    elif isinstance(owner := getattr(function, "__self__", None), nn.Module):
        if function.__name__ in ("forward", "__call__", "_call_impl", "_wrapped_call_impl"):
            yield owner
        else:
            yield from _named_in(function.__func__.__code__, owner, depth)
    elif getattr(function, "__closure__", None):
        held = dict(zip(function.__code__.co_freevars, map(_content, function.__closure__), strict=True))
        if function.__module__ == "torch.utils.checkpoint":  # `checkpoint_sequential` runs a part of its list
            held = {"functions": held["functions"][held["start"] : held["end"] + 1]}
        for value in held.values():
            yield from _held_by(function.__code__, value, depth)


def _held_by(code: Any, value: Any, depth: int) -> Iterator[nn.Module]:
    """What a function runs of a value that it closes over."""
    if isinstance(value, nn.Module):
        named = list(_named_in(code, value, depth))
        if named or not any(hasattr(value, name) and not hasattr(nn.Module, name) for name in code.co_names):
            yield from named or [value]
    elif callable(value):
        yield from _run_by(value, depth + 1)
    elif isinstance(value, (list, tuple)) and all(_is_trained(each) for each in value):
        yield from value


def _named_in(code: Any, owner: nn.Module, depth: int) -> Iterator[nn.Module]:
    """Submodules, and methods that run some, that code names: `self.block(x)`, `self.encode(x)`."""
    for name in code.co_names:
        value = getattr(owner, name, None) if not hasattr(nn.Module, name) else None
        if isinstance(value, (nn.ModuleList, nn.ModuleDict)):
            children = list(value.children())
            yield from children if all(map(_is_trained, children)) else ()  # one of them may be meant
        elif isinstance(value, nn.Module):
            yield value
        elif getattr(value, "__self__", None) is owner:
            yield from _run_by(value, depth + 1)


def _is_trained(module: Any) -> bool:
    return isinstance(module, nn.Module) and any(each.requires_grad for each in module.parameters())


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
