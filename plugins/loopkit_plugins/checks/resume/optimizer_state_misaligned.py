"""State of an optimizer that was put onto other parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from loopkit import Confidence, Finding, Run, Severity, Site, hookimpl

_SHAPED = frozenset(
    [
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
        "exp_inf",
        "momentum_buffer",
        "square_avg",
        "acc_delta",
        "grad_avg",
        "sum",
        "prev",
        "ax",
        "step_size",
    ]
)
"""What torch's own optimizers keep of a parameter in the parameter's shape."""
_SHOWN = 3


class OptimizerStateMisaligned:
    """`Optimizer.load_state_dict` put the moments of one parameter onto another.

    What it looks for
        After `load_state_dict` of one of torch's optimizers: moments whose shape differs from their parameter's; or
        parameter names in the state (of an optimizer made with `named_parameters()`) that are the optimizer's own, in
        another order.

    Why that hurts
        States are matched by position alone. Moments of another parameter scale and steer every update; where shapes
        happen to fit or to broadcast, nothing is raised.

    A loop that has it
        optimizer = AdamW([*head.parameters(), *backbone.parameters()])  # it was backbone first when it was saved
        optimizer.load_state_dict(checkpoint["optimizer"])

    The repair
        Give the optimizer its parameters in the order in which they were saved, or begin without its state.

    Left alone
        Counts of steps and other scalars; factored, quantised and low-rank states of optimizers that are not torch's.

    What it costs
        A look at shapes and names when an optimizer's state is loaded.
    """

    rule = "optimizer-state-misaligned"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def state_loaded(self, run: Run, owner: Any, state: Any, outcome: Any, site: Site) -> Iterator[Finding]:
        """Compare at once: nothing later explains it."""
        if not isinstance(owner, torch.optim.Optimizer) or not isinstance(state, Mapping):
            return
        stock = type(owner).__module__.startswith("torch.optim") and not isinstance(owner, torch.optim.LBFGS)
        shaped = list(_of_other_shape(owner)) if stock else []
        moved = list(_moved(state, outcome))
        if not shaped and not moved:
            return
        what = "; ".join((shaped or moved)[:_SHOWN])
        count = len(shaped or moved)
        yield Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=site.place,
            places={"load": site.place},
            subject=type(owner).__name__,
            seen=f"the state loaded into {type(owner).__name__} belongs to other parameters, {count} of them: {what}",
            why="an optimizer's state is matched by position: its moments now steer parameters they do not belong to",
            remedy="give the optimizer its parameters in the order in which they were saved, or leave its state out",
            evidence={"shapes": shaped, "names": moved, "load_frames": [str(each) for each in site.chain]},
        )


def _of_other_shape(optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """Each parameter with a moment of another shape, in words."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for i, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            if name in _SHAPED and isinstance(value, torch.Tensor) and value.shape != parameter.shape:
                yield f"{name} of shape {list(value.shape)} on parameter {i} of shape {list(parameter.shape)}"
                break


def _moved(state: Mapping[str, Any], own: Any) -> Iterator[str]:
    """Each parameter whose name is another one's in the state, in words."""
    saved = [list(group.get("param_names", ())) for group in state.get("param_groups", ())]
    before = own if isinstance(own, list) else []
    flat_saved, flat_own = [str(n) for group in saved for n in group], [str(n) for group in before for n in group]
    if not flat_own or sorted(flat_saved) != sorted(flat_own):
        return  # without names, or of another model, of which names prove nothing
    for now, then in zip(flat_own, flat_saved, strict=True):
        if now != then:
            yield f"{now} has that of {then}"
