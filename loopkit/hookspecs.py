"""Every event a plugin can hear: the whole of what can be extended, on one page.

A plugin is any object with methods marked `@loopkit.hookimpl`. A method is named after a hook and
names only the arguments it wants. What it returns is a `Finding`, an iterable of them, or None.
Arguments are live objects of the user's program: keep one past the call only weakly, change none.
`run` is the watched run (`Run`); "cost" is what a hook costs while somebody hears it, beside the
plugin's own work. A hook nobody hears costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch.optim import Optimizer

    from loopkit.callsite import Site
    from loopkit.feeds import Feed
    from loopkit.finding import Finding
    from loopkit.run import Run
    from loopkit.update import Update

    Answer = Finding | Iterable[Finding] | None

PROJECT = "loopkit"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method as the implementation of the hook it is named after."""
API_VERSION = 1
"""Of the hooks on this page and the names plugins use. A plugin may say which it needs, as `api_version`. It grows
when something is added that a plugin could miss, or taken away."""


@hookspec
def run_started(run: Run) -> Answer:
    """The watch opened; nothing has happened yet. Cost: once a run."""


@hookspec
def run_finished(run: Run) -> Answer:
    """The watch closed, also after an exception, and the last update was judged. Plugins that have a `rule` are
    called first, unless loopkit itself had failed: what they find now is in every sink's report. Models and
    optimizers may be gone. Cost: once a run.
    """


@hookspec
def batch_loaded(run: Run, batch: Any, loader: Any) -> Answer:
    """A DataLoader iterator, or `loopkit.batches`, handed out `batch`. Cost: one call a batch."""


@hookspec
def before_batch(run: Run, loader: Any) -> Answer:
    """A DataLoader iterator, or `loopkit.batches`, is asked for a batch, and may have none. `loader` is None if it is
    gone. Cost: one call a batch.
    """


@hookspec
def loader_started(run: Run, loader: Any, feed: Feed) -> Answer:
    """A DataLoader made an iterator, or begins anew with workers that it keeps. Cost: once a pass, and about 20 µs
    for what is read of its samplers.
    """


@hookspec
def loader_exhausted(run: Run, loader: Any, feed: Feed) -> Answer:
    """An iterator of a DataLoader was asked for a batch and had none: `feed.ends` says for which time. `loader` is
    None if it is gone. Cost: once a pass.
    """


@hookspec
def before_forward(run: Run, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
    """The outermost module is about to be called. Silent inside backward (checkpointing recomputes there)
    and inside a compiled region. Cost: one call a forward of the whole model.
    """


@hookspec
def after_forward(
    run: Run, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Answer:
    """The outermost module returned `output`. Not called when it raised. Cost: as `before_forward`."""


@hookspec
def checkpoint_cut(run: Run, function: Any, args: tuple[Any, ...], site: Site) -> Answer:
    """A reentrant activation checkpoint of `function` is called at `site` with gradients on, and no tensor among
    its arguments requires one: nothing inside it gets a gradient from this call. Cost: a look at the arguments
    of each reentrant checkpoint, and one call of those that are cut.
    """


@hookspec
def before_backward(run: Run, loss: Any) -> Answer:
    """`Tensor.backward` or `torch.autograd.backward` is about to run; the graph is still whole.
    `loss` is a tensor, or the sequence of tensors given. `torch.autograd.grad` fills no `.grad` and is
    not an event. Cost: one call a backward.
    """


@hookspec
def after_backward(run: Run, loss: Any) -> Answer:
    """Backward returned: gradients are in `.grad`, the graph is freed unless retained. Cost: one call a
    backward.
    """


@hookspec
def before_clip(run: Run) -> Answer:
    """Gradients are about to be clipped, or their norm is asked for. Cost: one call a clip."""


@hookspec
def gradients_clipped(run: Run, parameters: list[torch.Tensor], limit: float, total_norm: Any) -> Answer:
    """Gradients were clipped, by norm or by value. `total_norm` is a 0-dim tensor on the gradients' device
    (reading it waits for the device), or None when clipped by value. Cost: one call a clip.
    """


@hookspec
def before_step(run: Run, optimizer: Optimizer, closure: Any) -> Answer:
    """The real optimizer is about to step: never a wrapper that skips. With a `closure`, forward and
    backward follow inside the step. Cost: one call a step.
    """


@hookspec
def after_step(run: Run, optimizer: Optimizer) -> Answer:
    """The real optimizer executed a step; `.grad` still holds what it used. Cost: one call a step."""


@hookspec
def step_skipped(run: Run, optimizer: Optimizer) -> Answer:
    """A GradScaler found a non-finite gradient and left the step out. Cost: one call a skipped step."""


@hookspec
def gradients_unscaled(run: Run, optimizer: Optimizer, scaler: Any) -> Answer:
    """A GradScaler divided this optimizer's gradients by its scale, called by the user. Cost: one call."""


@hookspec
def scheduler_stepped(run: Run, scheduler: Any) -> Answer:
    """A learning-rate scheduler advanced: the outermost of nested ones, and not from its constructor.
    Cost: one call a scheduler step.
    """


@hookspec
def before_zero_grad(run: Run, owner: Any) -> Answer:
    """An optimizer or module is about to clear gradients: the last moment to look at them. Cost: one call."""


@hookspec
def after_zero_grad(run: Run, owner: Any) -> Answer:
    """An optimizer or module cleared its gradients, to None or to zero. Cost: one call a clear."""


@hookspec
def mode_changed(run: Run, module: torch.nn.Module, training: bool) -> Answer:
    """`train()` or `eval()` was called on a module, not by its parent. Cost: 0.3 µs for every submodule of
    that call, and only while somebody hears it.
    """


@hookspec
def state_saved(run: Run, state: Any, file: Any, site: Site) -> Answer:
    """`torch.save` wrote `state` to `file`, called at `site`. Cost: one call a save."""


@hookspec
def state_read(run: Run, state: Any, file: Any, site: Site) -> Answer:
    """`torch.load` returned a mapping, called at `site`: told of the first 256 such files. Cost: one call a file."""


@hookspec
def state_taken(run: Run, owner: torch.nn.Module, state: Any, site: Site) -> Answer:
    """`state_dict()` of a module, not called by its parent, returned `state`: its tensors are the live ones. Cost:
    1 µs for every submodule, and only while somebody hears one of these four.
    """


@hookspec
def state_loaded(run: Run, owner: Any, state: Any, outcome: Any, site: Site) -> Answer:
    """`load_state_dict(state)` of a module, optimizer, scheduler or GradScaler returned. `outcome` is what it
    returned, of a module its missing and unexpected keys; of an optimizer the names that the parameters of each group
    had before. Cost: one call a load.
    """


@hookspec
def generator_seeded(run: Run, seed: Any, site: Site) -> Answer:
    """`torch.manual_seed` or `torch.seed` was called at `site`, by whatever name. Cost: one call a seed."""


@hookspec
def epoch_started(run: Run, epoch: int) -> Answer:
    """A pass over the training data begins; `epoch` counts from 1. Told by `Loop`. Cost: once an epoch."""


@hookspec
def epoch_finished(run: Run, epoch: int) -> Answer:
    """A pass over the training data ended, the evaluation that belongs to it too. Told by `Loop`. Cost: once an
    epoch.
    """


@hookspec
def evaluation_started(run: Run) -> Answer:
    """An evaluation begins: told by `Loop`; in another loop, the first forward without gradients after training.
    Cost: once an evaluation.
    """


@hookspec
def evaluation_finished(run: Run) -> Answer:
    """An evaluation ended, and its metrics were logged: told by `Loop`; in another loop, when training goes on or
    the run ends. Cost: once an evaluation.
    """


@hookspec
def metric_logged(run: Run, name: str, value: Any, step: int) -> Answer:
    """A named number, such as "val/loss": from `loopkit.log`, `Loop`, or an evaluation that was understood. `value`
    is a float, or a 0-dim tensor on the device it was given on (reading it waits for the device); `step` counts
    executed optimizer steps. Cost: one call a number.
    """


@hookspec
def update_finished(run: Run, update: Update) -> Answer:
    """Everything between two executed steps, as a record. Called for an update of a shape not seen before in
    this run, and again at its 2nd, 4th, 8th … occurrence (`update.seen`), so that a healthy loop costs
    nothing and a rule may still tell a habit from an exception. Cost: about 20 µs each of those times.
    """


@hookspec
def finding_reported(run: Run, finding: Finding) -> Answer:
    """A finding passed `Run.report` for the first time. Repeats only raise its count. Cost: once a finding."""
