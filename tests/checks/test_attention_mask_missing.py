"""attention-mask-missing: padded batches that an encoder gets without a mask are found, causal models not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.data.attention_mask_missing import AttentionMaskMissing
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "attention-mask-missing"
WORDS, PAD = 12, 0
LENGTHS = (4, 9, 3, 5)


def found(loop: Callable[[], Any]) -> list[Finding]:
    return [each for each in find(loop, autoload=False, plugins=[AttentionMaskMissing]) if each.rule == RULE]


class Attention(nn.Module):
    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


class Encoder(nn.Module):
    """As encoders of libraries look: they take a mask, and their attention says which way it looks."""

    def __init__(self, is_causal: bool | None = False, filler: int | None = PAD) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, 8, padding_idx=filler), nn.Linear(8, 2)
        if is_causal is not None:
            self.attention = Attention(is_causal)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        made: Tensor = self.head(self.embed(input_ids).mean(1))
        return made


def tokens(lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    rows = [torch.randint(1, WORDS, (length,)) for length in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def without_mask() -> None:
    torch.manual_seed(0)
    net = Encoder()
    optimizer = adamw(net)
    for _ in range(4):
        ids = tokens()
        optimizer.zero_grad()
        scores = net(input_ids=ids)
        nn.functional.cross_entropy(scores, ids[:, 0] % 2).backward()
        optimizer.step()


SNAPSHOTS = {"attention-mask-missing": without_mask}


def loop_of(
    call: Callable[[Any, Tensor], Tensor] = lambda net, ids: net(ids),
    model: Callable[[], nn.Module] = Encoder,
    ids: Callable[[], Tensor] = tokens,
) -> Callable[[], None]:
    def loop() -> None:
        torch.manual_seed(0)
        net = model()
        optimizer = adamw(net)
        for _ in range(4):
            optimizer.zero_grad()
            call(net, ids()).square().mean().backward()
            optimizer.step()

    return loop


def test_found_at_the_call_of_the_model() -> None:
    (finding,) = found(without_mask)
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    assert finding.place is not None
    assert finding.place.line == line_of(without_mask, "net(input_ids=ids)")
    assert finding.seen == (
        "Encoder was called without attention_mask on a batch in which 3 of 4 rows end in padding (id 0): "
        "15 of 36 positions"
    )
    assert finding.step == 1


def test_found_by_position_and_in_a_model_of_transformers() -> None:
    assert len(found(loop_of())) == 1

    def bert() -> nn.Module:
        from transformers import BertConfig, BertForSequenceClassification

        made: nn.Module = BertForSequenceClassification(
            BertConfig(
                vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
            )
        )
        return made

    assert len(found(loop_of(lambda net, ids: net(input_ids=ids).logits, bert))) == 1


def test_the_encoder_before_a_decoder_looks_both_ways() -> None:
    def t5() -> nn.Module:
        from transformers import T5Config, T5ForConditionalGeneration

        made: nn.Module = T5ForConditionalGeneration(
            T5Config(vocab_size=WORDS, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
        )
        return made

    (finding,) = found(loop_of(lambda net, ids: net(input_ids=ids, labels=ids[:, :3].contiguous()).loss, t5))
    assert finding.subject == "T5ForConditionalGeneration"


@pytest.mark.parametrize(
    "loop",
    [
        loop_of(lambda net, ids: net(ids, (ids != PAD).long())),
        loop_of(lambda net, ids: net(ids, attention_mask=(ids != PAD).long())),
        loop_of(model=lambda: Encoder(is_causal=True)),
        loop_of(model=lambda: Encoder(is_causal=None)),
        loop_of(model=lambda: Encoder(filler=None)),
        loop_of(ids=lambda: tokens((6, 6, 6, 6))),
        loop_of(ids=lambda: torch.zeros(4, 6).long()),  # rows of nothing else
        loop_of(ids=lambda: tokens((6, 6, 6, 5))),  # one row, one position
        loop_of(ids=lambda: tokens().roll(3, 1)),  # the id stands inside of sequences
        loop_of(
            lambda net, ids: net(ids),
            lambda: nn.Sequential(nn.Embedding(WORDS, 8, padding_idx=PAD), nn.Flatten(), nn.Linear(72, 2)),
        ),
    ],
)
def test_look_alikes_are_left_alone(loop: Callable[[], None]) -> None:
    assert found(loop) == []
