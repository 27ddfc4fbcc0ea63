"""A compiled model whose gradients are not those of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopkit import Confidence, Finding, Rehearsal, Run, Severity, Take, copied, hookimpl, tensors

_APART = 0.02  # relative; rounding and the order of sums make 1e-3 at most in float32
_APART_HALF = 0.2


class CompileEagerDivergence:
    """The gradients of a compiled model differ from those of the same model run as it is written.

    What it looks for
        For models made by `torch.compile`: copies are run on the first training batch, twice as written and once
        compiled as the model is, in eval mode, and the gradients of one weighted sum of the outputs are compared,
        parameter by parameter. The two runs as written show what rounding alone may do.

    Why that hurts
        A wrong kernel raises nothing: the model learns from wrong gradients.

    A loop that has it
        model = torch.compile(model)      # with a pass or kernel that is wrong

    The repair
        Bisect with `TORCHDYNAMO_REPRO_AFTER`, leave the region out with `torch.compiler.disable`, and report it.

    Left alone
        Differences below 2 % (20 % in half precision) or below ten times that of two runs as written.

    What it costs
        Three copies of the model, a compilation and three forwards and backwards, once; only with `--probe`.
    """

    rule = "compile-eager-divergence"
    severity = Severity.ERROR
    confidence = Confidence.PROBE

    @hookimpl
    def after_forward(
        self, run: Run, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Finding | None:
        """Try it at the first training forward of a compiled model."""
        written = getattr(module, "_orig_mod", None)
        context = getattr(module, "dynamo_ctx", None)
        if not isinstance(written, torch.nn.Module) or context is None:
            return None
        with run.instrument(Rehearsal).take(run, self.rule, written, args, kwargs) as take:
            if take is None:
                return None
            take.model.eval()
            first = _gradients(take.model, take)
            again = _gradients(copied(take.model), take)
            compiled = _gradients(type(module)(copied(take.model), context), take)
            worst = max(
                ((_apart(first[name], compiled[name], again[name]), name) for name in first if name in compiled),
                default=(0.0, ""),
            )
            return self._finding(take, type(written).__name__, *worst) if worst[0] > 0 else None
        return None

    def _finding(self, take: Take, model: str, apart: float, name: str) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=take.place,
            subject=model,
            seen=f"the compiled model's gradient of {name} differs by {apart:.1%} from that of the model as written",
            why="the model learns from gradients that are not its own",
            remedy="bisect with TORCHDYNAMO_REPRO_AFTER=aot, keep that region out with torch.compiler.disable",
            evidence={"parameter": name, "relative": apart},
        )


def _gradients(model: torch.nn.Module, take: Take) -> dict[str, Tensor]:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        answer = model(*take.args, **take.kwargs)
    wholes = [each for each in tensors(answer) if each.is_floating_point() and each.requires_grad]
    total = torch.stack([(each.float() * _weights(each)).sum() for each in wholes]).sum()
    named = {name.removeprefix("_orig_mod."): each for name, each in model.named_parameters() if each.requires_grad}
    grads = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name: grad.float() for name, grad in zip(named, grads, strict=True) if grad is not None}


def _weights(output: Tensor) -> Tensor:
    """Fixed weights, so that no gradients cancel and no random number is drawn."""
    return torch.arange(output.numel(), device=output.device).cos().reshape(output.shape)


def _apart(written: Tensor, compiled: Tensor, again: Tensor) -> float:
    """How far the compiled gradient is from the one as written, as a share of it; 0 where rounding may do that."""
    scale = written.norm().clamp_min(1e-12)
    apart, spread = float((compiled - written).norm() / scale), float((again - written).norm() / scale)
    limit = _APART if written.dtype == torch.float32 else _APART_HALF
    return apart if apart > max(limit, 10 * spread) or apart != apart else 0.0
