"""label-shift-wrong: labels shifted twice or not at all are found; the next token, and what is no token, are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.label_shift_wrong import LabelShiftWrong
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "label-shift-wrong"
WORDS = 12


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[LabelShiftWrong]) if each.rule == RULE]


class Recurrent(nn.Module):
    def __init__(self, layers: int = 1, both_ways: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        self.layers = nn.ModuleList(
            [nn.GRU(8, 8 // (1 + both_ways), batch_first=True, bidirectional=both_ways) for _ in range(layers)]
        )

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        for layer in self.layers:
            hidden = layer(hidden)[0]
        made: Tensor = self.head(hidden)
        return made


class Attending(nn.Module):
    """Attention written by hand: by a fused kernel, or by a mask."""

    def __init__(self, how: str = "kernel") -> None:
        super().__init__()
        self.embed, self.head, self.how = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS), how

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        if self.how == "mask":
            later = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
            scores = (hidden @ hidden.transpose(1, 2)).masked_fill(later, float("-inf"))
            hidden = scores.softmax(-1) @ hidden
        else:
            heads = hidden.unsqueeze(1)
            hidden = F.scaled_dot_product_attention(heads, heads, heads, is_causal=self.how == "kernel").squeeze(1)
        made: Tensor = self.head(hidden)
        return made


class Translating(nn.Module):
    """An encoder and a decoder; the decoder is given tokens of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        self.inner = nn.Transformer(8, 2, 1, 1, 8, dropout=0.0, batch_first=True)

    def forward(self, source: Tensor, words: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        made: Tensor = self.head(self.inner(self.embed(source), self.embed(words), tgt_mask=mask))
        return made


class Reconstructing(Translating):
    """An autoencoder, which shifts its input itself."""

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(ids, ids.roll(1, 1))


class Teaching(Recurrent):
    """A decoder that is taught token by token, and begins with one of its own."""

    def forward(self, ids: Tensor) -> Tensor:
        state, made = None, []
        for at in range(ids.shape[1]):
            before = ids[:, at - 1 : at] if at else torch.zeros_like(ids[:, :1])
            hidden, state = self.layers[0](self.embed(before), state)
            made.append(self.head(hidden))
        return torch.cat(made, 1)


class Starting(Attending):
    """Puts a start before what it is given: before the tokens, or before their vectors."""

    def __init__(self, inside: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed = nn.Sequential(self.embed, Moved(inside))  # type: ignore[assignment]


class Moved(nn.Module):
    def __init__(self, inside: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inside(hidden)


class ShiftingTokens(Attending):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(torch.cat((torch.zeros_like(ids[:, :1]), ids[:, :-1]), 1))


def _filled(hidden: Tensor) -> Tensor:
    moved = torch.zeros_like(hidden)
    moved[:, 1:] = hidden[:, :-1]
    return moved


STARTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda hidden: torch.cat((torch.zeros_like(hidden[:, :1]), hidden[:, :-1]), 1),
    lambda hidden: torch.stack([hidden[:, max(0, at - 1)] for at in range(hidden.shape[1])], 1),
    lambda hidden: hidden.roll(1, 1),
    lambda hidden: F.pad(hidden, (0, 0, 1, 0))[:, :-1],
    _filled,
)


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(vocab_size=WORDS, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    )


def shifted_twice() -> None:
    torch.manual_seed(0)
    net = gpt2()
    optimizer = adamw(net)
    for _ in range(4):
        ids = torch.randint(0, WORDS, (4, 10))
        optimizer.zero_grad()
        out = net(input_ids=ids[:, :-1], labels=ids[:, 1:].contiguous())
        out.loss.backward()
        optimizer.step()


def not_shifted() -> None:
    torch.manual_seed(0)
    net = Attending()
    optimizer = adamw(net)
    for _ in range(4):
        ids = torch.randint(0, WORDS, (4, 10))
        optimizer.zero_grad()
        loss = F.cross_entropy(net(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        optimizer.step()


SNAPSHOTS = {"label-shift-wrong": shifted_twice, "label-shift-wrong-none": not_shifted}
Loss = Callable[[Any, Tensor], Tensor]


def loop_of(
    loss: Loss,
    model: Callable[[], Any] = Attending,
    ids: Callable[[], Tensor] = lambda: torch.randint(0, WORDS, (4, 10)),
) -> Callable[[], None]:
    def loop() -> None:
        torch.manual_seed(0)
        net = model()
        optimizer = adamw(net)
        for _ in range(4):
            optimizer.zero_grad()
            loss(net, ids()).backward()
            optimizer.step()

    return loop


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, WORDS), targets.reshape(-1))


def _copy(net: Any, ids: Tensor) -> Tensor:
    return cross_entropy(net(ids), ids)


def _right(net: Any, ids: Tensor) -> Tensor:
    return cross_entropy(net(ids[:, :-1]), ids[:, 1:])


def test_shifted_twice_is_found_at_the_call_of_the_model() -> None:
    (finding,) = found(shifted_twice)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(shifted_twice, "labels=ids[:, 1:]")
    assert finding.seen.startswith("each of the 28 targets that could be compared is the token two positions on")
    assert "labels=input_ids" in finding.remedy


def test_not_shifted_is_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(not_shifted)
    assert finding.place is not None
    assert finding.place.line == line_of(not_shifted, "F.cross_entropy(")
    assert finding.evidence["shift"] == 0


@pytest.mark.parametrize("model", [Recurrent, lambda: Attending("mask"), lambda: Attending("kernel")])
def test_models_that_look_back_alone_are_known(model: Callable[[], Any]) -> None:
    assert len(found(loop_of(_copy, model))) == 1


def test_shifted_twice_by_hand() -> None:
    assert len(found(loop_of(lambda net, ids: cross_entropy(net(ids)[:, :-2], ids[:, 2:])))) == 1


def _masked(net: Any, ids: Tensor) -> Tensor:
    hidden = torch.rand(ids.shape) < 0.3
    hidden[:, 0] = True
    return cross_entropy(net(ids.masked_fill(hidden, 0)), ids.masked_fill(~hidden, -100))


def _two_heads(net: Any, ids: Tensor) -> Tensor:
    logits = net(ids)
    first = cross_entropy(logits[:, :-1], ids[:, 1:])
    return first + cross_entropy(logits[:, :-2], ids[:, 2:])


@pytest.mark.parametrize(
    "loop",
    [
        loop_of(_right),
        loop_of(_right, Recurrent),
        loop_of(lambda net, ids: cross_entropy(net(ids)[:, :-1], ids[:, 1:])),
        loop_of(lambda net, ids: net(input_ids=ids, labels=ids).loss, gpt2),
        loop_of(_masked),
        loop_of(_two_heads),
        *[loop_of(_copy, lambda start=start: Starting(start)) for start in STARTS],  # type: ignore[misc]
        loop_of(_copy, ShiftingTokens),
        loop_of(_copy, Teaching),
        loop_of(_copy, lambda: Attending("both ways")),
        loop_of(_copy, lambda: Recurrent(both_ways=True)),
        loop_of(_copy, Reconstructing),
        loop_of(lambda net, ids: net(input_ids=ids, labels=ids).loss, t5),
        loop_of(_copy, lambda: Recurrent(layers=2)),  # an encoder and a decoder
        loop_of(lambda net, ids: cross_entropy(net(ids), (ids + 3) % WORDS)),
        loop_of(_copy, ids=lambda: torch.ones(4, 10).long()),  # every shift fits
        loop_of(lambda net, ids: cross_entropy(net(ids)[:, -1:], ids[:, -1:])),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert found(loop) == []
