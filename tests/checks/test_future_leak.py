"""future-leak: found where a next-token model sees the next token, silent elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from loopkit import Confidence, Severity
from tests.watched import find, line_of, rules


class Attention(nn.Module):
    """Embeddings, one attention layer, logits."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20)
        self.causal = causal

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        logits: Tensor = self.head(F.scaled_dot_product_attention(h, h, h, is_causal=self.causal))
        return logits


def train(model: nn.Module, *, shift: int = 1, longer: bool = False) -> None:
    tokens = torch.randint(0, 20, (16, 9))
    data = TensorDataset(tokens) if longer else TensorDataset(tokens[:, :-shift], tokens[:, shift:])
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in DataLoader(data, batch_size=4):
        x, y = (batch[0][:, :-1], batch[0][:, 1:]) if longer else batch
        optimizer.zero_grad()
        logits = model(x)
        F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
        optimizer.step()


def leaks() -> None:
    train(Attention(causal=False))


SNAPSHOTS = {"future-leak": leaks}


@pytest.mark.parametrize("longer", [False, True])
def test_attention_without_a_mask(longer: bool) -> None:
    findings = find(lambda: train(Attention(causal=False), longer=longer), probe=True)
    (found,) = [each for each in findings if each.rule == "future-leak"]
    assert (found.severity, found.confidence) == (Severity.ERROR, Confidence.PROBE)
    assert found.place is not None
    assert found.place.line == line_of(train, "logits = model(x)")


@pytest.mark.parametrize("longer", [False, True])
def test_a_causal_model_is_right(longer: bool) -> None:
    assert "future-leak" not in rules(lambda: train(Attention(causal=True), longer=longer), probe=True)


def test_other_objectives_are_left_alone() -> None:
    def tagging() -> None:
        model = Attention(causal=False)
        optimizer = torch.optim.AdamW(model.parameters())
        data = TensorDataset(torch.randint(0, 20, (16, 8)), torch.randint(0, 20, (16, 8)))
        for x, y in DataLoader(data, batch_size=4):
            optimizer.zero_grad()
            F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
            optimizer.step()

    assert "future-leak" not in rules(tagging, probe=True)


def test_causal_models_of_transformers() -> None:
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=32))
    bert = BertForMaskedLM(
        BertConfig(num_hidden_layers=1, num_attention_heads=2, hidden_size=16, intermediate_size=32, vocab_size=50)
    )

    def loop(model: nn.Module, hide: bool) -> None:
        optimizer = torch.optim.AdamW(model.parameters())
        for (ids,) in DataLoader(TensorDataset(torch.randint(5, 50, (8, 12))), batch_size=4):
            labels, given = ids.clone(), ids.clone()
            if hide:
                given[:, ::3] = 4
                labels[given != 4] = -100
            optimizer.zero_grad()
            model(input_ids=given, labels=labels).loss.backward()
            optimizer.step()

    assert "future-leak" not in rules(lambda: loop(gpt2, False), probe=True)
    assert "future-leak" not in rules(lambda: loop(bert, True), probe=True)
    assert "future-leak" in rules(lambda: loop(bert, False), probe=True)  # trained to say what it reads
