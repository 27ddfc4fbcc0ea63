"""pad-mask-wrong: targets on padding that count, and ends of sequences that never do, are found; nothing else is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopkit import Confidence, Finding, Severity
from loopkit_plugins.checks.loss.pad_mask_wrong import PadMaskWrong
from tests.loops import adamw
from tests.watched import find, line_of

RULE = "pad-mask-wrong"
IGNORED = -100
VOCABULARY, PAD, END = 12, 0, 1
cross_entropy = nn.functional.cross_entropy


def found(loop: Callable[[], Any]) -> list[Finding]:
    """What this rule says of a loop."""
    return [each for each in find(loop, autoload=False, plugins=[PadMaskWrong]) if each.rule == RULE]


def batch(*lengths: int, pad: int = PAD, end: int | None = END, side: str = "right") -> dict[str, Tensor]:
    """Sentences of these lengths, their end token included, with their mask."""
    width = max(lengths)
    ids = torch.full((len(lengths), width), pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        words = torch.randint(2, VOCABULARY, (length,))
        if end is not None:
            words[-1] = end
        at = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, at], mask[row, at] = words, 1
    return {"input_ids": ids, "attention_mask": mask}


class Model(nn.Module):
    """A language model that is given a mask, and leaves the loss to others."""

    def __init__(self, classes: int = VOCABULARY) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.embed(input_ids))
        return logits


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
        )
    )


LENGTHS = (4, 7, 3, 5)


def labels_with_padding() -> None:
    net = Model()
    optimizer = adamw(net)
    for _ in range(4):
        tokens = batch(*LENGTHS)
        labels = tokens["input_ids"].clone()
        loss = cross_entropy(net(**tokens)[:, :-1].transpose(1, 2), labels[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def masked_by_id() -> None:
    net = Model()
    optimizer = adamw(net)
    for _ in range(4):
        tokens = batch(*LENGTHS, pad=END)
        labels = tokens["input_ids"].masked_fill(tokens["input_ids"] == END, IGNORED)
        loss = cross_entropy(net(**tokens)[:, :-1].transpose(1, 2), labels[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


SNAPSHOTS = {"pad-mask-wrong": labels_with_padding, "pad-mask-wrong-ends": masked_by_id}


def loop_of(
    loss: Callable[[Any, dict[str, Tensor]], Tensor],
    make: Callable[[], dict[str, Tensor]] = lambda: batch(*LENGTHS),
    model: Callable[[], nn.Module] = Model,
    steps: int = 4,
) -> Callable[[], None]:
    """A loop over batches, with this loss of the model and the batch."""

    def loop() -> None:
        net = model()
        optimizer = adamw(net)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(net, make()).backward()
            optimizer.step()

    return loop


def labels_of(tokens: dict[str, Tensor]) -> Tensor:
    return tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, IGNORED)


def shifted(net: Any, tokens: dict[str, Tensor], labels: Tensor, **options: Any) -> Tensor:
    """The loss as one writes it by hand."""
    logits: Tensor = net(**tokens)[:, :-1]
    made: Tensor = cross_entropy(logits.reshape(-1, VOCABULARY), labels[:, 1:].reshape(-1), **options)
    return made


# -- padding that counts ---------------------------------------------------------------------------------


def test_found_at_the_backward_with_counts() -> None:
    (finding,) = found(labels_with_padding)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(labels_with_padding, "backward()")
    # 9 of 4 x 7 positions are padding; in three rows the first of them is predicted from a real token.
    assert finding.seen.startswith("6 of 24 targets that count (25%) stand where attention_mask is 0")
    assert (finding.evidence["token"], finding.evidence["padded_targets"]) == (PAD, 6)
    assert "labels[attention_mask == 0] = -100" in finding.remedy


def test_found_in_a_model_that_makes_its_loss_itself() -> None:
    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        made: Tensor = net(**tokens, labels=tokens["input_ids"].clone()).loss
        return made

    (finding,) = found(loop_of(loss, model=gpt2))
    assert finding.seen.startswith("6 of 24")


def _by_hand(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    return shifted(net, tokens, tokens["input_ids"])


def _by_hand_in_three_dimensions(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    return cross_entropy(net(**tokens)[:, :-1].transpose(1, 2), tokens["input_ids"][:, 1:])


def _with_the_input_cut(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    logits = net(tokens["input_ids"][:, :-1], attention_mask=tokens["attention_mask"][:, :-1])
    return cross_entropy(logits.flatten(0, 1), tokens["input_ids"][:, 1:].flatten())


def _by_position(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    logits = net(tokens["input_ids"], tokens["attention_mask"])[:, :-1]
    return cross_entropy(logits.reshape(-1, VOCABULARY), tokens["input_ids"][:, 1:].reshape(-1))


def _smoothed_and_scaled(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    decay: Tensor = net.head.weight.square().sum()
    return shifted(net, tokens, tokens["input_ids"], label_smoothing=0.1) / 2 + decay


def _summed_over_a_count(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    return shifted(net, tokens, tokens["input_ids"], reduction="sum") / 24


@pytest.mark.parametrize(
    "loss",
    [
        _by_hand,
        _by_hand_in_three_dimensions,
        _with_the_input_cut,
        _by_position,
        _smoothed_and_scaled,
        _summed_over_a_count,
    ],
)
def test_found_in_losses_by_hand(loss: Callable[[Any, dict[str, Tensor]], Tensor]) -> None:
    (finding,) = found(loop_of(loss))
    assert finding.evidence["padded_targets"] == 6


def test_found_where_the_batch_is_gone_before_backward() -> None:
    def loss_of_a_batch(net: Any) -> Tensor:
        tokens = batch(*LENGTHS)
        loss: Tensor = net(**tokens, labels=tokens["input_ids"]).loss
        return loss

    assert len(found(loop_of(lambda net, _: loss_of_a_batch(net), model=gpt2))) == 1


def test_found_where_padding_has_a_label_of_its_own() -> None:
    from transformers import BertConfig, BertForTokenClassification

    def tagger() -> nn.Module:
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=3,
        )
        made: nn.Module = BertForTokenClassification(config)
        return made

    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        tags = torch.randint(1, 3, tokens["input_ids"].shape) * tokens["attention_mask"]
        made: Tensor = net(**tokens, labels=tags).loss
        return made

    (finding,) = found(loop_of(loss, model=tagger))
    assert finding.evidence["padded_targets"] == 9


def test_found_on_the_left() -> None:
    (finding,) = found(loop_of(_by_hand, lambda: batch(*LENGTHS, side="left")))
    assert finding.evidence["padded_targets"] == 6


def test_found_in_a_window() -> None:
    def loop() -> None:
        net = Model()
        optimizer = adamw(net)
        for i in range(8):
            (_by_hand(net, batch(*LENGTHS)) / 4).backward()
            if i % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()

    (finding,) = found(loop)
    assert finding.evidence["targets"] == 24


def test_found_when_it_begins_late() -> None:
    def loop() -> None:
        net = Model()
        optimizer = adamw(net)
        for i in range(40):
            tokens = batch(*LENGTHS)
            labels = labels_of(tokens) if i < 20 else tokens["input_ids"]
            optimizer.zero_grad()
            shifted(net, tokens, labels).backward()
            optimizer.step()

    (finding,) = found(loop)
    assert finding.step == 32


@pytest.mark.parametrize("bad", [0, 1])
def test_both_losses_of_a_pair_are_laid_beside_their_own_forward(bad: int) -> None:
    def pair(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        both = [(tokens, labels_of(tokens)), (other := batch(6, 2, 4, 7), labels_of(other))]
        both[bad] = (both[bad][0], both[bad][0]["input_ids"])
        outputs = [net(**each) for each, _ in both]
        losses = [
            cross_entropy(output[:, :-1].reshape(-1, VOCABULARY), labels[:, 1:].reshape(-1))
            for output, (_, labels) in zip(outputs, both, strict=True)
        ]
        return losses[0] + losses[1]

    (finding,) = found(loop_of(pair))
    assert finding.evidence["padded_targets"] == 6


# -- ends that never count -------------------------------------------------------------------------------


def test_found_where_padding_is_the_end_token_and_labels_are_masked_by_id() -> None:
    (finding,) = found(masked_by_id)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(masked_by_id, "backward()")
    assert "12 of 12 sequences in 3 batches end in token 1" in finding.seen
    assert finding.evidence["direction"] == "no end counts"


def test_found_in_the_collator_that_masks_by_id() -> None:
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words)), eos_token="w1")
    tokenizer.pad_token = tokenizer.eos_token
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)

    def make() -> dict[str, Tensor]:
        tokens = batch(*LENGTHS)
        rows = [ids[mask.bool()] for ids, mask in zip(*tokens.values(), strict=True)]
        return dict(collate([{"input_ids": row.tolist()} for row in rows]))

    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        made: Tensor = net(**tokens).loss
        return made

    (finding,) = found(loop_of(loss, make, model=gpt2))
    assert finding.evidence["direction"] == "no end counts"


def test_silent_where_ends_are_masked_now_and_then() -> None:
    calls = iter(range(99))

    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        labels = labels_of(tokens)
        return shifted(net, tokens, labels if next(calls) % 2 else labels.masked_fill(labels == END, IGNORED))

    assert found(loop_of(loss, lambda: batch(*LENGTHS, pad=END), steps=16)) == []


def test_silent_where_texts_have_no_end_token() -> None:
    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        return shifted(net, tokens, labels_of(tokens))

    assert found(loop_of(loss, lambda: batch(*LENGTHS, pad=END, end=None), steps=16)) == []


def test_silent_where_few_sequences_end_in_the_padding_token() -> None:
    def make() -> dict[str, Tensor]:  # it stands for unknown words too
        tokens = batch(*LENGTHS, end=None)
        tokens["input_ids"][1, -1] = PAD
        return tokens

    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        return shifted(net, tokens, labels_of(tokens).masked_fill(tokens["input_ids"] == PAD, IGNORED))

    assert found(loop_of(loss, make, steps=16)) == []


# -- look-alikes -----------------------------------------------------------------------------------------


def _masked(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    return shifted(net, tokens, labels_of(tokens))


def _ignored_by_index(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    return shifted(net, tokens, tokens["input_ids"], ignore_index=PAD)


def _mask_multiplied_into_the_loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    each, mask = shifted(net, tokens, tokens["input_ids"], reduction="none"), tokens["attention_mask"][:, 1:]
    return (each * mask.flatten()).sum() / mask.sum()


def _mask_multiplied_into_the_logits(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    logits = net(**tokens) * tokens["attention_mask"].unsqueeze(-1)
    return cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), tokens["input_ids"][:, 1:].reshape(-1))


def _selected_by_mask(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    real = tokens["attention_mask"][:, 1:].bool()
    return cross_entropy(net(**tokens)[:, :-1][real], tokens["input_ids"][:, 1:][real])


def _padding_weighs_nothing(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    weight = torch.ones(VOCABULARY)
    weight[PAD] = 0
    return shifted(net, tokens, tokens["input_ids"], weight=weight)


def _first_padding_stands_for_the_end(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    labels = labels_of(tokens)
    ends = (tokens["attention_mask"][:, :-1] == 1) & (tokens["attention_mask"][:, 1:] == 0)
    labels[:, 1:][ends] = PAD
    return shifted(net, tokens, labels)


def _holes_in_the_mask(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    ids = batch(8, 8, 8, 8)["input_ids"]
    ids[:, 2:5] = 7
    mask = torch.ones_like(ids)
    mask[:, 2:5] = 0
    return shifted(net, {"input_ids": ids, "attention_mask": mask}, ids)


def _mask_says_what_is_the_prompt(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    ids = batch(8, 8, 8, 8)["input_ids"]
    mask = (torch.arange(8) < 4).long().expand(4, 8)
    return shifted(net, {"input_ids": ids, "attention_mask": mask}, ids)


def _mask_that_is_1_at_padding(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    return shifted(net, tokens | {"attention_mask": 1 - tokens["attention_mask"]}, labels_of(tokens))


def _packed(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    ids = batch(8, 8, 8, 8)["input_ids"]
    documents = torch.tensor([1, 1, 1, 2, 2, 2, 2, 2]).expand(4, 8)
    return shifted(net, {"input_ids": ids, "attention_mask": documents}, ids)


def _targets_of_another_text(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    other = batch(7, 7, 7, 7)["input_ids"]  # as in an encoder-decoder, of the encoder's shape by chance
    return cross_entropy(net(**tokens).flatten(0, 1), other.flatten())


def _four_dimensional_mask(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    return _by_hand(net, tokens | {"attention_mask": tokens["attention_mask"][:, None, None]})


def _without_a_mask(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    return _by_hand(net, {"input_ids": tokens["input_ids"]})


LOOK_ALIKES = [
    _masked,
    _ignored_by_index,
    _mask_multiplied_into_the_loss,
    _mask_multiplied_into_the_logits,
    _selected_by_mask,
    _padding_weighs_nothing,
    _first_padding_stands_for_the_end,
    _holes_in_the_mask,
    _mask_says_what_is_the_prompt,
    _mask_that_is_1_at_padding,
    _packed,
    _targets_of_another_text,
    _four_dimensional_mask,
    _without_a_mask,
]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("loss", LOOK_ALIKES)
def test_silent_on(loss: Callable[[Any, dict[str, Tensor]], Tensor], side: str) -> None:
    assert found(loop_of(loss, lambda: batch(*LENGTHS, side=side), steps=5)) == []


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad", [PAD, END])
def test_silent_on_a_language_model_with_labels_masked_by_the_mask(pad: int, side: str) -> None:
    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        made: Tensor = net(**tokens, labels=labels_of(tokens)).loss
        return made

    assert found(loop_of(loss, lambda: batch(*LENGTHS, pad=pad, side=side), model=gpt2, steps=16)) == []


def test_silent_on_an_encoder_that_classifies_whole_texts() -> None:
    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        return cross_entropy(net(**tokens).mean(1), torch.randint(0, 2, (len(tokens["input_ids"]),)))

    def classifier() -> nn.Module:
        return Model(classes=2)

    for lengths in [(4, 7, 3, 5), (3, 2), (4, 4, 4)]:
        assert found(loop_of(loss, lambda lengths=lengths: batch(*lengths), model=classifier)) == []  # type: ignore[misc]


def test_silent_on_masked_tokens_of_an_encoder() -> None:
    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        hidden = (torch.rand(tokens["input_ids"].shape) < 0.3) & (tokens["attention_mask"] == 1)
        labels = tokens["input_ids"].masked_fill(~hidden, IGNORED)
        logits = net(tokens["input_ids"].masked_fill(hidden, 11), attention_mask=tokens["attention_mask"])
        return cross_entropy(logits.flatten(0, 1), labels.flatten())

    assert found(loop_of(loss)) == []


def test_silent_on_a_prefix_that_only_the_mask_knows() -> None:
    class Prefixed(Model):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            prefix = torch.full((len(input_ids), 1), 2)
            return super().forward(torch.cat([prefix, input_ids], 1))[:, 1:]

    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        mask = torch.cat([torch.ones(len(tokens["input_ids"]), 1).long(), tokens["attention_mask"]], 1)
        logits = net(tokens["input_ids"], attention_mask=mask)
        return cross_entropy(logits[:, :-1].flatten(0, 1), labels_of(tokens)[:, 1:].flatten())

    assert found(loop_of(loss, model=Prefixed)) == []


def test_no_tensor_of_the_users_is_kept() -> None:
    gone = []

    def loss(net: Any, tokens: dict[str, Tensor]) -> Tensor:
        gone.append(weakref.ref(tokens["attention_mask"]))
        return _by_hand(net, tokens)

    found(loop_of(loss))
    assert all(known() is None for known in gone)


# -- tokens without a mask -------------------------------------------------------------------------------


class Tagger(nn.Module):
    """A model that declares its padding and takes no mask."""

    def __init__(self, filler: int | None = PAD) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, 8, padding_idx=filler), nn.Linear(8, VOCABULARY)

    def forward(self, words: Tensor) -> Tensor:
        made: Tensor = self.head(self.embed(words))
        return made


TAG_LENGTHS = (4, 9, 3, 5)


def another_index_is_ignored() -> None:
    torch.manual_seed(0)
    net, criterion = Tagger(), nn.CrossEntropyLoss(ignore_index=3)
    optimizer = adamw(net)
    for _ in range(4):
        words = batch(*TAG_LENGTHS, end=None)["input_ids"]
        optimizer.zero_grad()
        loss = criterion(net(words).flatten(0, 1), words.flatten())
        loss.backward()
        optimizer.step()


SNAPSHOTS["pad-mask-wrong-index"] = another_index_is_ignored
Tagging = Callable[[nn.Module, Tensor], Tensor]


def tagging(loss: Tagging, filler: int | None = PAD, end: int | None = None) -> Callable[[], None]:
    def loop() -> None:
        torch.manual_seed(0)
        net = Tagger(filler)
        optimizer = adamw(net)
        for _ in range(4):
            optimizer.zero_grad()
            loss(net, batch(*TAG_LENGTHS, end=end)["input_ids"]).backward()
            optimizer.step()

    return loop


def test_another_ignored_index_is_found_at_the_call_of_the_loss() -> None:
    (finding,) = found(another_index_is_ignored)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.PROOF)
    assert finding.place is not None
    assert finding.place.line == line_of(another_index_is_ignored, "criterion(net(words)")
    assert "stand where words is 0, the padding_idx of the model" in finding.seen
    assert "but ignore_index is 3" in finding.seen
    assert finding.remedy == "give the loss ignore_index=0, the class that fills the targets"
    assert finding.evidence["padded_targets"] == 15


def _ahead(net: nn.Module, words: Tensor, **options: Any) -> Tensor:
    return cross_entropy(net(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten(), **options)


def test_no_ignored_index_is_a_warning() -> None:
    (finding,) = found(tagging(lambda net, words: cross_entropy(net(words).transpose(1, 2), words)))
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.FACT)
    (finding,) = found(tagging(_ahead, end=END))
    assert finding.severity is Severity.WARNING


def test_padding_that_stands_for_the_end_is_left_alone() -> None:
    assert found(tagging(_ahead)) == []


@pytest.mark.parametrize(
    "loss",
    [
        lambda net, words: cross_entropy(net(words).transpose(1, 2), words, ignore_index=PAD),
        lambda net, words: cross_entropy(net(words).transpose(1, 2), words.masked_fill(words == PAD, IGNORED)),
        lambda net, words: (
            (cross_entropy(net(words).transpose(1, 2), words, reduction="none") * (words != PAD)).sum()
            / (words != PAD).sum()
        ),
        lambda net, words: cross_entropy(net(words)[words != PAD], words[words != PAD]),
        lambda net, words: cross_entropy(
            net(words).transpose(1, 2), words, weight=torch.tensor([0.0, *[1.0] * (VOCABULARY - 1)])
        ),
        lambda net, words: cross_entropy(net(words).mean(1), words[:, 0]),
        lambda net, words: cross_entropy(net(words).transpose(1, 2), (words + torch.arange(9)) % VOCABULARY),
        lambda net, words: cross_entropy(net(words).transpose(1, 2), words * 0),  # one class everywhere
    ],
)
def test_padding_that_counts_nowhere_is_left_alone(loss: Tagging) -> None:
    assert found(tagging(loss)) == []


def test_a_model_that_declares_no_padding_is_left_alone() -> None:
    assert found(tagging(lambda net, words: cross_entropy(net(words).transpose(1, 2), words), None)) == []


def test_an_id_that_stands_inside_of_sequences_is_no_padding() -> None:
    def loss(net: nn.Module, words: Tensor) -> Tensor:
        words = words.clone()
        words[:, 1] = PAD
        return cross_entropy(net(words).transpose(1, 2), words)

    assert found(tagging(loss)) == []
