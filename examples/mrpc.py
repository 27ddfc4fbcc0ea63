"""Fine-tune BERT to tell paraphrases: a plain PyTorch loop with dynamic padding and a linear schedule.

Each batch is padded to its own longest pair by `DataCollatorWithPadding`; AdamW follows a rate that falls to 0 over
the run; after each epoch the model is evaluated by accuracy and F1. Without a network it trains a small BERT from
nothing on the sentence pairs in `examples/data`; with `--hub` it fine-tunes bert-base-cased on GLUE's MRPC.

    loopkit run examples/mrpc.py

shows that loopkit understood the loop, `forward → backward → step → scheduler → zero_grad`, and found nothing.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    get_scheduler,
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


def loaders(data: Any, tokenizer: Any, batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    def tokenize(rows: dict[str, Any]) -> Any:
        return tokenizer(rows["sentence1"], rows["sentence2"], truncation=True)

    tokens = data.map(tokenize, batched=True, remove_columns=["sentence1", "sentence2", "idx"])
    tokens = tokens.rename_column("label", "labels").with_format("torch")
    collate = DataCollatorWithPadding(tokenizer)
    return (
        DataLoader(tokens["train"], batch_size=batch_size, shuffle=True, collate_fn=collate),
        DataLoader(tokens["validation"], batch_size=4 * batch_size, collate_fn=collate),
    )


@torch.no_grad()
def evaluate(model: Any, loader: DataLoader[Any], device: torch.device) -> dict[str, float]:
    model.eval()
    predictions, references = [], []
    for batch in loader:
        logits = model(**batch.to(device)).logits
        predictions += logits.argmax(-1).tolist()
        references += batch["labels"].tolist()
    return {"accuracy": accuracy_score(references, predictions), "f1": f1_score(references, predictions)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", action="store_true", help="bert-base-cased and GLUE MRPC, from the hub")
    parser.add_argument("--epochs", type=int, default=None, help="3 with --hub, else 4")
    options = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, tokenizer, model = load(options.hub)
    train, held_out = loaders(data, tokenizer, batch_size=8 if options.hub else 16)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5 if options.hub else 1e-3)
    epochs = options.epochs or (3 if options.hub else 4)
    steps = epochs * len(train)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)

    progress = tqdm(total=steps)
    for epoch in range(epochs):
        model.train()
        for batch in train:
            loss = model(**batch.to(device)).loss
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            progress.update(1)
        scores = evaluate(model, held_out, device)
        tqdm.write(f"epoch {epoch + 1:2d}  accuracy {scores['accuracy']:.3f}  F1 {scores['f1']:.3f}")
    progress.close()


if __name__ == "__main__":
    main()
