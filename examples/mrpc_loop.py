"""Fine-tune BERT to tell paraphrases with `loopkit.Loop`: the task of `mrpc.py`, without writing the loop.

Dynamic padding, accumulation over two batches (the gradient is that of the whole window), clipping, a linear schedule
that advances with each update, and accuracy and F1 after each epoch. Run

    loopkit run examples/mrpc_loop.py
    loopkit run --tensorboard runs examples/mrpc_loop.py

and loopkit shows the loop, `zero_grad → (forward → backward) ×2 → clip → step → scheduler`, and found nothing.

`--hub` takes bert-base-cased and GLUE's MRPC from the hub.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    get_scheduler,
)

import loopkit
import offline  # before anything of Hugging Face

ACCUMULATE = 2


def load(hub: bool) -> tuple[Any, Any, Any]:
    """Data with the splits train and validation, the tokenizer and the model."""
    if hub:
        tokenizer = AutoTokenizer.from_pretrained("bert-base-cased")
        model = AutoModelForSequenceClassification.from_pretrained("bert-base-cased", num_labels=2)
        return load_dataset("glue", "mrpc"), tokenizer, model
    data = offline.pairs()
    tokenizer = offline.bert_tokenizer([*data["train"]["sentence1"], *data["train"]["sentence2"]])
    return data, tokenizer, BertForSequenceClassification(offline.bert_config(tokenizer))


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float(accuracy_score(labels.cpu(), logits.argmax(-1).cpu()))


class F1:
    """Over the whole evaluation: the F1 of batches has no mean that means anything."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.predictions: list[int] = []
        self.references: list[int] = []

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.predictions += logits.argmax(-1).tolist()
        self.references += labels.tolist()

    def compute(self) -> float:
        return float(f1_score(self.references, self.predictions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", action="store_true", help="bert-base-cased and GLUE MRPC, from the hub")
    parser.add_argument("--epochs", type=int, default=None, help="3 with --hub, else 4")
    options = parser.parse_args()

    torch.manual_seed(0)
    data, tokenizer, model = load(options.hub)

    def tokenize(rows: dict[str, Any]) -> Any:
        return tokenizer(rows["sentence1"], rows["sentence2"], truncation=True)

    tokens = data.map(tokenize, batched=True, remove_columns=["sentence1", "sentence2", "idx"])
    tokens = tokens.rename_column("label", "labels").with_format("torch")
    collate = DataCollatorWithPadding(tokenizer)
    train: DataLoader[Any] = DataLoader(tokens["train"], batch_size=8, shuffle=True, collate_fn=collate)
    held_out: DataLoader[Any] = DataLoader(tokens["validation"], batch_size=64, collate_fn=collate)

    epochs = options.epochs or (3 if options.hub else 4)
    updates = epochs * -(-len(train) // ACCUMULATE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5 if options.hub else 1e-3)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=updates // 10, num_training_steps=updates)

    loop = loopkit.Loop(
        model,
        optimizer,
        train,
        scheduler=scheduler,
        eval_loader=held_out,
        metrics={"accuracy": accuracy, "f1": F1()},
        accumulate=ACCUMULATE,
        clip_norm=1.0,
    )
    loop.run(epochs=epochs)
    print(f"accuracy {loop.latest['val/accuracy']:.3f}  F1 {loop.latest['val/f1']:.3f}")


if __name__ == "__main__":
    main()
