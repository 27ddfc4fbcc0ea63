"""Which torch call makes which event.

| torch call | event | file |
|---|---|---|
| iterating a `DataLoader` | `before_batch`, `batch_loaded`, `loader_started`, `loader_exhausted` | `loader.py` |
| calling the outermost `Module` | `before_forward`, `after_forward` | `module.py` |
| a `torch.nn.functional` loss, while graphs are walked | none: `Criteria` reads it | `values.py` |
| such a loss, from a forward to its backward | none: `Making` reads its graph | `losses.py` |
| calling it without gradients | `evaluation_started`, `evaluation_finished` | `criterion.py` |
| meanwhile, a `torch.nn.functional` loss, or the model's `.loss` | `metric_logged` | `criterion.py` |
| a reentrant `torch.utils.checkpoint.checkpoint` | `checkpoint_cut` | `checkpoint.py` |
| `Tensor.backward`, `torch.autograd.backward` | `before_backward`, `after_backward` | `autograd.py` |
| `clip_grad_norm_`, `clip_grads_with_norm_`, `clip_grad_value_` | `gradients_clipped` | `clipping.py` |
| `clip_grad_norm_`, `clip_grad_value_` | `before_clip` | `clipping.py` |
| `GradScaler.unscale_`, `GradScaler.step` | `gradients_unscaled`, `step_skipped` | `amp.py` |
| the innermost `Optimizer.step` | `before_step`, `after_step` | `optimizer.py` |
| `Optimizer.zero_grad`, `Module.zero_grad` | `before_zero_grad`, `after_zero_grad` | `optimizer.py` |
| `LRScheduler.step` | `scheduler_stepped` | `scheduler.py` |
| `Module.train`, `Module.eval` | `mode_changed` | `mode.py` |
| `torch.save`, `torch.load` | `state_saved`, `state_read` | `state.py` |
| `Module.state_dict` | `state_taken` | `state.py` |
| `load_state_dict` of a module, optimizer, scheduler, scaler | `state_loaded` | `state.py` |
| `torch.manual_seed` | `generator_seeded` | `seeding.py` |

`ddp.py` hears what makes no event: wrappers made, states loaded, collectives of the program's own. All but
checkpoints, modes, states, seeds and evaluations also feed the record of the current update, so they are installed in
every run. Inside a region that torch.compile traces, and on other threads than the first that trained, nothing is an
event.
"""

from __future__ import annotations

from collections.abc import Callable

from loopkit.run import Run
from loopkit.taps import (
    amp,
    autograd,
    checkpoint,
    clipping,
    criterion,
    ddp,
    loader,
    losses,
    mode,
    module,
    optimizer,
    scheduler,
    seeding,
    state,
    values,
)
from loopkit.taps.patch import Handle, Taps

ALWAYS: tuple[Callable[[Run], Handle], ...] = (
    loader.install,
    module.install,
    autograd.install,
    losses.install,
    clipping.install,
    amp.install,
    optimizer.install,
    scheduler.install,
    ddp.install,
)
IF_HEARD: dict[str, Callable[[Run], Handle]] = {
    "mode_changed": mode.install,
    "checkpoint_cut": checkpoint.install,
    "update_finished": values.install,
    **dict.fromkeys(("state_saved", "state_read", "state_taken", "state_loaded"), state.install),
    "generator_seeded": seeding.install,
    **dict.fromkeys(sorted(loader.EVALUATIONS), criterion.install),
}


def install(run: Run) -> Handle:
    """Install every tap that something needs, undoing those already in place if one cannot be."""
    wanted = [*ALWAYS, *dict.fromkeys(tap for hook, tap in IF_HEARD.items() if hook in run.heard)]
    handles: list[Handle] = []
    try:
        for tap in wanted:
            handles.append(tap(run))
    except BaseException:
        Taps(*handles).undo()
        raise
    return Taps(*handles)
