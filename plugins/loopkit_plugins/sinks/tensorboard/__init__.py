"""Curves, gradients and findings for TensorBoard: `loopkit run --tensorboard DIR`, or `TensorBoard(DIR)` as a plugin.

`sink.py` hears the run; `optimizers.py` reads what is due, with `readings.py`; `writer.py` writes it down, off the
training thread; `pages.py` has what is said once: hyperparameters and the layout of the charts.

The tags, over executed optimizer updates:

* `train/loss`: mean of the losses sent backward since the point before, as they would be without a GradScaler, and
  without the division by the length of their accumulation window where their graph shows that one.
* `val/loss` and every other metric that was logged, under its own name.
* `train/lr`; of several groups `train/lr/group0`, `train/lr/group1`, …
* `train/grad_norm`: before clipping (unknown where clipped by value), unscaled; `train/grad_norm_clipped`: after
  it, where a clip was seen.
* `grad_norm_by_depth/NN_LAYER`: before clipping, of up to 24 layers, numbered in the model's order.
* `grads/nonfinite`: how many values of all gradients are NaN or infinite.
* `grads/PARAMETER`, `weights/PARAMETER`: histograms of up to 16,384 finite values of each, spread evenly; gradients
  as the step used them. `update_ratio/PARAMETER`: norm of a step's change over the norm of the weight, of those.
* `time/data`, `time/forward`, `time/backward`, `time/optimizer`, `time/update`: seconds an update by the host's
  clock, medians since the point before.
* `train/skipped_steps`: steps that a GradScaler has left out so far.
* `loopkit/findings`: each finding as text at its update; `loopkit/report`: all of them at the end;
  `loopkit/findings_so_far`: how many, so that a step in the line marks each.
* `loopkit/hyperparameters`: what is known of the run; `loopkit/not_shown`: which parameters have histograms, where
  not all do.
"""

from __future__ import annotations

from .sink import TensorBoard

__all__ = ["TensorBoard"]
