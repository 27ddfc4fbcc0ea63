"""`Loop`: a training loop that is right about accumulation, can be resumed in mid-epoch, and is watched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from loopkit import chance, rates, states, tally
from loopkit.batching import batches
from loopkit.errors import LoopkitError, UsageError
from loopkit.logbook import History
from loopkit.objective import Objective, counted
from loopkit.passes import Pass
from loopkit.placing import Precision, gathering, moved, place
from loopkit.run import Run
from loopkit.session import Session
from loopkit.targets import Weight


class Loop:
    """Trains a model, and calls every hook where it belongs.

    What it does, with each event at its place:

        run_started
        model.train()                                    # mode_changed, where the model is in evaluation mode
        for each epoch:
            epoch_started
            for each window of `accumulate` batches:     # the last of an epoch may hold fewer
                the window is fetched                    # before_batch, batch_loaded, for each batch
                optimizer.zero_grad()                    # before_zero_grad, after_zero_grad
                for each batch of the window:
                    loss = loss(model(input), target)    # before_forward, after_forward
                    (loss * its share).backward()        # before_backward, after_backward
                scaler.unscale_(optimizer)               # gradients_unscaled, with "fp16" and clip_norm
                clip_grad_norm_(parameters, clip_norm)   # before_clip, gradients_clipped, with clip_norm
                optimizer.step()                         # before_step, after_step; or step_skipped, by the scaler
                scheduler.step()                         # scheduler_stepped, with scheduler_per="update"
                log "train/loss", "train/lr"             # metric_logged
            model.eval(); for each batch of eval_loader: # evaluation_started
                loss(model(input), target)               # before_batch, batch_loaded, before_forward, after_forward
            log "val/loss", "val/<metric>"               # metric_logged
            model.train()                                # evaluation_finished
            scheduler.step()                             # scheduler_stepped, with scheduler_per="epoch"
            epoch_finished
        run_finished

    `update_finished` comes when the next thing begins: the next window, the evaluation, or the end. When a plugin
    calls `run.stop`, or raises `StopTraining`, training ends after the update at hand; at the end of an epoch, after
    the evaluation that belongs to it. Gradients stay until the next update, so that they can be looked at.

    **Accumulation.** The gradient of an update is that of its whole window in one batch, for a loss that is a mean
    over samples or over valid targets: each loss is multiplied by its share of the samples, or of the targets that
    are not ignored, of all the window's batches; the last short window too. Targets are counted where a target is a
    tensor of integer classes: all that are not the loss's `ignore_index`, -100 where it does not say, and each by its
    class weight where `nn.CrossEntropyLoss` or `nn.NLLLoss` has such. A loss with `reduction="sum"` is added up as it
    is. A model that returns its own loss and takes `num_items_in_batch` is given the window's count and divides by
    it; the labels of others are counted, without the first of each sequence where the class is named `…ForCausalLM`
    or `…LMHeadModel`, which predict the next token. For every other loss `weight=` says what a batch weighs.

    It cannot be so where a loss is not such a mean: contrastive losses compare the samples of a batch, BatchNorm
    normalises over them, a loss that adds a penalty to a mean adds it once a micro-batch, and dropout draws anew. It
    holds in each process: with DistributedDataParallel the ranks' gradients are averaged as torch does it.

    **A loss that is not a number** is logged as it is, and training goes on: what to do then is a plugin's to say. In
    "fp16" the scaler leaves such steps out; they are no updates, and an epoch without a single one is an error.

    **A OneCycleLR that is at its end** keeps its last rate, with a warning; any other scheduler that is longer or
    shorter than the run is advanced as it is, and loopkit's checks tell of it.

    Args:
        model: moved to `device`.
        optimizer: of torch, over the model's parameters.
        train_loader: a DataLoader, or any iterable of batches; walked once an epoch. Batches are (input, target), or
            dicts that the model takes as keywords: with `loss`, without "labels" or "target", which is the target.
        loss: a function of (output, target); None where the model returns its own as `.loss` or "loss".
        scheduler: a learning-rate scheduler, or None.
        scheduler_per: it advances after each "update" or each "epoch".
        eval_loader: batches of the evaluation at the end of each epoch, or None.
        evaluate_every: evaluate after so many updates instead.
        metrics: by name: functions of (output, target), whose numbers are averaged over samples, or objects with
            `update`, `compute` and `reset`, as torchmetrics has them. `output` is the model's; its logits where it
            returns its own loss.
        accumulate: batches of one update. More than an epoch has means one update an epoch.
        clip_norm: the largest norm of all gradients of an update, or None.
        precision: "fp32", the model's own; "bf16", by autocast; "fp16", by autocast and a GradScaler, on CUDA.
        device: "auto" is CUDA, where there is one, for a model that is on the CPU.
        weight: what a batch weighs in its window: a function of the batch that returns a number.
        step: instead of `loss`: a function of (model, batch) that returns the loss, or (loss, output).
        plugins: classes, objects or "module:Name" strings, added to what is installed.
        autoload: False leaves out what is installed. Without plugins, and where no watch is open, torch is then not
            listened to at all.
        skip: names of installed plugins or families to leave out.

    Attributes:
        history: every number that was logged while it trained in this process.
        updates: optimizer steps executed, those before it was resumed too.
        epochs: epochs finished.
        latest: the numbers of the last evaluation, by name.
        stopped: why a plugin ended the last run; None where it came to its end.

    Raises:
        UsageError: an argument that cannot be meant; the message says what to give.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train_loader: Iterable[Any],
        *,
        loss: Callable[[Any, Any], Any] | None = None,
        scheduler: Any = None,
        scheduler_per: str = "update",
        eval_loader: Iterable[Any] | None = None,
        evaluate_every: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        precision: str = "fp32",
        device: torch.device | str = "auto",
        weight: Callable[[Any], Weight] | None = None,
        step: Callable[[Any, Any], Any] | None = None,
        plugins: Sequence[Any] = (),
        autoload: bool = True,
        skip: Iterable[str] = (),
    ) -> None:
        _check(
            optimizer,
            {
                "loss": loss,
                "step": step,
                "accumulate": accumulate,
                "clip_norm": clip_norm,
                "evaluate_every": evaluate_every,
            },
        )
        rates.check(scheduler, scheduler_per, evaluates=eval_loader is not None)
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.train_loader, self.eval_loader = train_loader, eval_loader
        self.device = place(model, optimizer, device)
        self.history = History()
        self.updates = self.epochs = 0
        self.latest: dict[str, float] = {}
        self.stopped: str | None = None
        self._objective = Objective(model, loss, step, weight)
        self._metrics = tally.check(metrics or {}, self.device)
        self._precision = Precision(precision, self.device)
        self._scheduler_per = scheduler_per if scheduler is not None else ""
        self._evaluate_every, self._accumulate, self._clip_norm = evaluate_every, accumulate, clip_norm
        self._pass: Pass | None = None
        self._random: chance.State | None = None  # to begin with, after a state was loaded
        self._session = Session(self.history, plugins, autoload=autoload, skip=skip)

    # -- training ----------------------------------------------------------------------------------------

    def run(self, *, epochs: int | None = None, max_updates: int | None = None) -> History:
        """Train until so many epochs or updates are done, those of earlier runs and of a loaded state included.

        Raises:
            UsageError: neither or both are given; the data or the loss cannot be used.
            LoopkitError: an epoch of "fp16" had no finite gradient.
        """
        most_epochs, most_updates = _goal(epochs, max_updates)
        with self._session.open(self) as run:
            if not self.model.training:
                self.model.train()
            while not run.stopping and self.epochs < most_epochs and self.updates < most_updates:
                self._epoch(run, most_updates)
            if self._pass is not None:
                self._pass.leave()
        return self.history

    def _epoch(self, run: Run, most_updates: float) -> None:
        """An epoch, or what is left of one; it ends early when it is told to, and may be taken up there."""
        place = self._pass
        if place is None:
            place = self._pass = Pass(self.train_loader, self._accumulate)
        elif self._random is None:
            self._random = chance.states(self.train_loader)
        run.emit("epoch_started", epoch=self.epochs + 1)
        for window in place.windows(self._random, tell=self._session.heard):
            self._random = None
            self._update(run, place, window)
            if self._evaluate_every and self.updates % self._evaluate_every == 0:
                self.evaluate()
            if (run.stopping or self.updates >= most_updates) and not place.ending:
                break
        self._random = None
        if not place.over:
            return
        if not place.updates:
            raise LoopkitError(f"epoch {self.epochs + 1} had no finite gradient: see 'train/loss' in the history")
        if self.eval_loader is not None and not self._evaluate_every and not place.evaluated:
            self.evaluate()
        if self._scheduler_per == "epoch":
            rates.advance(self.scheduler, self.latest.get("val/loss"))
        self.epochs, self._pass = self.epochs + 1, None
        run.emit("epoch_finished", epoch=self.epochs)

    def _update(self, run: Run, place: Pass, window: list[Any]) -> None:
        """One update, of as many batches as `accumulate` says, or as are left of the epoch."""
        if self.device.type != "cpu":
            window = [moved(batch, self.device) for batch in window]
        weights, total = self._objective.weights(window)
        self.optimizer.zero_grad()

        losses = []
        for at, (batch, weight) in enumerate(zip(window, weights, strict=True), 1):
            with gathering(self.model, last=at == len(window)):
                with self._precision.autocast():
                    loss = self._objective.share(batch, weight, total)
                self._precision.backward(loss)
            losses.append(counted(loss, weight))

        if self._clip_norm is not None:
            self._precision.clip(self.optimizer, self._clip_norm)
        used = rates.of(self.optimizer)
        if self._precision.step(self.optimizer):
            self.updates, place.updates = self.updates + 1, place.updates + 1
            run.step_offset = self.updates - run.steps
            if self._scheduler_per == "update":
                rates.advance(self.scheduler, None)

        log = self._session.log
        log("train/loss", losses[0] if len(losses) == 1 else sum(losses), self.updates)
        for name, rate in used:
            log(name, rate, self.updates)

    # -- evaluation --------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Evaluate on `eval_loader`: "val/loss" and "val/<metric>", which are logged, too.

        Every batch counts by its samples or valid targets. The model's modes are as before afterwards.

        Raises:
            UsageError: there is no evaluation loader, or it is empty.
        """
        if self.eval_loader is None:
            raise UsageError("there is nothing to evaluate on: give the Loop an eval_loader=")
        with self._session.open(self) as run:
            run.emit("evaluation_started")
            with tally.evaluating(self.model):
                self.latest = self._numbers(batches(self.eval_loader))
            if self._pass is not None and self._pass.over:
                self._pass.evaluated = True  # before it is told: a checkpoint may be made of what is told
            for name, value in self.latest.items():
                self._session.log(name, value, self.updates)
            run.emit("evaluation_finished")
        return self.latest

    def _numbers(self, loader: Iterable[Any]) -> dict[str, float]:
        loss, metrics, empty = tally.Mean(), tally.Metrics(self._metrics), True
        for batch in loader:
            batch = batch if self.device.type == "cpu" else moved(batch, self.device)
            with self._precision.autocast():
                outcome = self._objective.outcome(batch)
            loss.add(outcome.loss, self._objective.weigh(batch))
            metrics.add(outcome.output, outcome.target, batch)
            empty = False
        if empty:
            raise UsageError(f"the evaluation loader, a {type(self.eval_loader).__name__}, is empty")
        return {"val/loss": loss.value()} | {f"val/{name}": value for name, value in metrics.values().items()}

    # -- resuming ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on as if nothing had been: plain data and tensors.

        It is whole between two updates: once the numbers of an update are logged, when an evaluation or an epoch is
        over, and after a run. As in torch, its tensors are those in use: save or copy them before training goes on.
        With worker processes, what random numbers *they* draw begins anew when an epoch is taken up in its middle.
        """
        return {
            "loopkit": states.SCHEMA,
            "updates": self.updates,
            "epochs": self.epochs,
            "pass": None if self._pass is None else self._pass.state_dict(),
            "latest": dict(self.latest),
            "random": self._random or chance.states(self.train_loader),
            "plugins": self._session.plugin_states(),
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next run, where the loop stood that this state is of: the same batches, rates and chances.

        Raises:
            UsageError: it is no state of a Loop, or of one with another model; nothing was changed then.
        """
        states.check(state, self.model, self._parts())
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.updates, self.epochs, self.latest = state["updates"], state["epochs"], dict(state["latest"])
        self._pass = None
        if state["pass"] is not None:
            self._pass = Pass(self.train_loader, self._accumulate)
            self._pass.load_state_dict(state["pass"])
        self._random = state["random"]
        self._session.load(state["plugins"])

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {name: part for name, part in parts.items() if part is not None} | self._precision.parts()


def _goal(epochs: int | None, max_updates: int | None) -> tuple[float, float]:
    """How many epochs and updates there are to be, at most."""
    if (epochs is None) is (max_updates is None):
        raise UsageError("say how long to train: run(epochs=…) or run(max_updates=…), one of the two")
    for name, number in (("epochs", epochs), ("max_updates", max_updates)):
        if number is not None and number < 0:
            raise UsageError(f"{name} is 0 or more, not {number}")
    return (math.inf if epochs is None else epochs), (math.inf if max_updates is None else max_updates)


def _check(optimizer: Any, given: dict[str, Any]) -> None:
    """Refuse arguments that cannot be meant.

    Raises:
        UsageError: what is wrong, and what to give.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"optimizer is one of torch's, or derived from them, not a {type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UsageError(
            "LBFGS evaluates its loss many times a step, by a closure: write that loop out, and watch it"
        )
    if given["loss"] is not None and given["step"] is not None:
        raise UsageError("give loss= or step=, not both: step returns the loss")
    for name in ("accumulate", "evaluate_every"):
        if given[name] is not None and given[name] < 1:
            raise UsageError(f"{name} is 1 or more, not {given[name]}")
    if given["clip_norm"] is not None and not given["clip_norm"] > 0:
        raise UsageError(f"clip_norm is above 0, not {given['clip_norm']}; None clips nothing")
