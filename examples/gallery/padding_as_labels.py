"""Labels are a copy of the padded tokens, so padding is a target like any other.

The loss looks good: a third of what is predicted is padding after padding. Run

    loopkit run examples/gallery/padding_as_labels.py

and loopkit, at the line of `loss.backward()`, says

    error  pad-mask-wrong  (proof, step 1)
      seen   128 of 352 targets that count (36%) stand where attention_mask is 0; each of them is token 0
      why    the model is graded on padding: it learns to predict that, and real tokens weigh less the more of a batch
             is filled up
      try    set labels[attention_mask == 0] = -100 before the loss is made

The repair is that line, in `collate`. `examples/causal_lm.py` is the same bug in the loop of many tutorials.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

PAD = 0


def sentence() -> Tensor:
    """Numbers that count up, and begin anywhere."""
    length, start = int(torch.randint(4, 25, ())), int(torch.randint(1, 30, ()))
    return start + torch.arange(length)


def collate(sentences: list[Tensor]) -> dict[str, Tensor]:
    input_ids = pad_sequence(sentences, batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(each) for each in sentences])
    attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": input_ids.clone()}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sentences = [sentence() for _ in range(256)]
    loader: DataLoader[Tensor] = DataLoader(sentences, batch_size=16, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    model.train()
    for epoch in range(3):
        for batch in loader:
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
