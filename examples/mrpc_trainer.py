"""Fine-tune BERT to tell paraphrases with Hugging Face's Trainer: the same task as `mrpc.py`, the loop is theirs.

Gradients are accumulated over two batches, the rate warms up and falls linearly, gradients are clipped to norm 1, and
each epoch ends with accuracy and F1. On a GPU that has it, training runs in bfloat16. Run

    loopkit run examples/mrpc_trainer.py

and loopkit shows that it understood the Trainer's loop, `(forward → backward) ×2 → clip → step → scheduler`, and
found nothing. It would without `compute_loss_func`: the Trainer leaves it to the model to divide by the size of the
window, and BERT's own loss does not, so that gradients are twice what they should be (`accum-scale-wrong`, an info).

`--hub` takes bert-base-cased and GLUE's MRPC from the hub.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import offline  # before anything of Hugging Face


def load(hub: bool) -> tuple[Any, Any, Any]:
    """Data with the splits train and validation, the tokenizer and the model."""
    if hub:
        tokenizer = AutoTokenizer.from_pretrained("bert-base-cased")
        model = AutoModelForSequenceClassification.from_pretrained("bert-base-cased", num_labels=2)
        return load_dataset("glue", "mrpc"), tokenizer, model
    data = offline.pairs()
    tokenizer = offline.bert_tokenizer([*data["train"]["sentence1"], *data["train"]["sentence2"]])
    return data, tokenizer, BertForSequenceClassification(offline.bert_config(tokenizer))


def compute_metrics(evaluated: Any) -> dict[str, float]:
    predictions = evaluated.predictions.argmax(-1)
    references = evaluated.label_ids
    return {"accuracy": accuracy_score(references, predictions), "f1": f1_score(references, predictions)}


def mean_over_window(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """The share of one batch in the mean over the whole window; in an evaluation, the mean over the batch."""
    total = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def arguments(folder: str, hub: bool, epochs: int) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        learning_rate=3e-5 if hub else 1e-3,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,
        lr_scheduler_type="linear",
        warmup_steps=0.1,  # a share of all steps
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        use_cpu=not on_gpu,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to=[],
        seed=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", action="store_true", help="bert-base-cased and GLUE MRPC, from the hub")
    parser.add_argument("--epochs", type=int, default=None, help="3 with --hub, else 4")
    options = parser.parse_args()

    torch.manual_seed(0)
    data, tokenizer, model = load(options.hub)

    def tokenize(rows: dict[str, Any]) -> Any:
        return tokenizer(rows["sentence1"], rows["sentence2"], truncation=True)

    tokens = data.map(tokenize, batched=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=arguments(folder, options.hub, options.epochs or (3 if options.hub else 4)),
            train_dataset=tokens["train"],
            eval_dataset=tokens["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_loss_func=mean_over_window,
            compute_metrics=compute_metrics,
        )
        trainer.train()
        scores = trainer.evaluate()
    print(f"accuracy {scores['eval_accuracy']:.3f}  F1 {scores['eval_f1']:.3f}")


if __name__ == "__main__":
    main()
