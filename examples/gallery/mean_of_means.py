"""The bug of October 2024: token losses that each micro-batch averages by itself, in gradient accumulation.

Sentences have 2 to 59 tokens, so micro-batches have unequal numbers of them. Dividing each mean by the number of
micro-batches gives every micro-batch the same weight, and tokens of short sentences more than those of long ones. All
larger trainers had it until October 2024. Run

    loopkit run examples/gallery/mean_of_means.py

and loopkit, at the line of `(loss / WINDOW).backward()`, says

    warning  accum-mean-of-means  (proof, step 2)
      seen   the 4 micro-batches of one window each average over their own targets, 33 to 98: token weights differ by
             3.0 (2 of 2 windows looked at differ by more than 1.1)
      why    the mean of means is not the mean over the window: targets of micro-batches with few of them weigh more
      try    use reduction="sum" and divide by the number of targets of the whole window
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

WINDOW, IGNORED = 4, -100


class Tagger(nn.Module):
    """Reads tokens and names each one's class."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.mix = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.mix(self.embed(tokens))[0])
        return out


def collate(sentences: list[Tensor]) -> tuple[Tensor, Tensor]:
    tokens = pad_sequence(sentences, batch_first=True)
    labels = pad_sequence([each % 5 for each in sentences], batch_first=True, padding_value=IGNORED)
    return tokens, labels


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    lengths = torch.randint(2, 60, (256,)).tolist()
    sentences = [torch.randint(1, 50, (length,)) for length in lengths]
    loader: DataLoader[Tensor] = DataLoader(sentences, batch_size=2, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    for epoch in range(2):
        for i, (tokens, labels) in enumerate(loader):
            loss = nn.functional.cross_entropy(model(tokens).transpose(1, 2), labels, ignore_index=IGNORED)
            (loss / WINDOW).backward()
            if (i + 1) % WINDOW == 0:
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch + 1}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
