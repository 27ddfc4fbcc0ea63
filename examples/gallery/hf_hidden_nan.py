"""HF Trainer logs a loss of 0.0 that is NaN.

One column of the table is constant, so its standard deviation is 0, and 0 / 0 is NaN. The loss of the first batch is
NaN, and so are all weights after it. But the Trainer writes 0.0 for a loss that is not finite
(`logging_nan_inf_filter`, which is on), and the run ends as if it had learned everything. Run

    loopkit run examples/gallery/hf_hidden_nan.py

and loopkit, at the line of `Trainer(…).train()`, says

    error  nonfinite-values  (proof, step 0)
      seen   the loss of batch 2, after 0 steps, is NaN: 16 of 96 values given to the model in argument 'inputs' are
             not finite; after the step 4 of 4 parameters are not finite

The repair: leave out columns that are constant, or divide by `raw.std(0).clamp(min=1e-6)`.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, set_seed


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        predictions = self.layers(inputs)
        return {"loss": nn.functional.mse_loss(predictions, labels), "predictions": predictions}


def table() -> list[dict[str, Tensor]]:
    raw = torch.randn(256, 6)
    raw[:, 4] = 1.0  # a sensor that was off
    inputs = (raw - raw.mean(0)) / raw.std(0)
    labels = raw[:, :2].sum(1, keepdim=True)
    return [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]


def main() -> None:
    set_seed(0)
    torch.set_num_threads(1)
    rows: Any = table()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=3,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            logging_strategy="epoch",
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(Regression(), arguments, train_dataset=rows).train()


if __name__ == "__main__":
    main()
