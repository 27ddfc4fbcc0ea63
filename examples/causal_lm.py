"""Fine-tune GPT-2 on short texts with AdamW: the loop of many tutorials, with the mistake many of them have.

GPT-2 has no token for padding, so its end token is taken, and `labels` is a copy of `input_ids`. So padding is a
target like any other, and as most of each row is padding, the loss soon looks very good. Run

    loopkit run examples/causal_lm.py

and loopkit, at the line of `loss.backward()`, says

    error  pad-mask-wrong  (proof, step 1)
      seen   515 of 1008 targets that count (51%) stand where attention_mask is 0; each of them is token 0
      why    the model is graded on padding: it learns to predict that, and real tokens weigh less the more of a batch
             is filled up
      try    set labels[attention_mask == 0] = -100 before the loss is made

and ends with 1. With `--repaired` the script does what it says: the loss is higher, and honest, and nothing is found.
`--hub` takes gpt2 from the hub instead of a small model that starts from nothing.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

import offline  # before anything of Hugging Face

LENGTH = 64


def load(hub: bool) -> tuple[Any, Any, Any]:
    """Texts, the tokenizer and the model."""
    texts = offline.stories()["train"]
    if hub:
        return texts, AutoTokenizer.from_pretrained("gpt2"), AutoModelForCausalLM.from_pretrained("gpt2")
    tokenizer = offline.gpt2_tokenizer(texts["text"])
    return texts, tokenizer, GPT2LMHeadModel(offline.gpt2_config(tokenizer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", action="store_true", help="gpt2 from the hub")
    parser.add_argument("--repaired", action="store_true", help="leave padding out of the labels")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    texts, tokenizer, model = load(options.hub)
    tokenizer.pad_token = tokenizer.eos_token

    def tokenize(rows: dict[str, Any]) -> Any:
        ends = [text + tokenizer.eos_token for text in rows["text"]]
        return tokenizer(ends, padding="max_length", truncation=True, max_length=LENGTH)

    tokens = texts.map(tokenize, batched=True, remove_columns=["text"]).with_format("torch")
    loader: DataLoader[Any] = DataLoader(tokens, batch_size=16, shuffle=True)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5 if options.hub else 3e-3)

    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        for batch in loader:
            input_ids, attention_mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
            labels = input_ids.clone()
            if options.repaired:
                labels[attention_mask == 0] = -100
            loss = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        print(f"epoch {epoch + 1}  loss {total / len(loader):.3f}")


if __name__ == "__main__":
    main()
