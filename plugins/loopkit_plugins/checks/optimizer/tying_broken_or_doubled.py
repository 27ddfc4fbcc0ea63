"""Weights that should be shared are not, or are shared so that an optimizer trains them twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from loopkit import Confidence, Event, Finding, Kind, Ledger, Models, Run, Severity, Update, hookimpl


class TyingBrokenOrDoubled:
    """Two parameters on one piece of memory, or a model that ought to tie its embeddings and does not.

    What it looks for
        Two different parameters of the optimizers whose values lie at the same address, both trainable. And models
        whose configuration says `tie_word_embeddings`, but whose input and output embeddings are two parameters.

    Why that hurts
        Tied through `.data`, each parameter has a gradient and moments of its own, and each step moves the shared
        values twice, by a half of the gradient each time. Untied, one of the two is trained apart and the checkpoint
        loads one of them.

    A loop that has it
        model.decoder.weight.data = model.embedding.weight.data
        optimizer = AdamW(model.parameters())

    The repair
        Assign the parameter itself, `model.decoder.weight = model.embedding.weight`, before the optimizer is
        constructed; call `model.tie_weights()` after loading, resizing or materializing.

    Left alone
        Parameters tied by assignment, which are one object; heads that are untied on purpose; views at different
        places of one flat buffer (RNNs, DDP, FSDP); frozen copies; parameters on the meta device; a tied copy that
        no optimizer owns.

    What it costs
        Addresses of all parameters, in the 1st, 2nd, 4th, 8th … update. No value is read.
    """

    rule = "tying-broken-or-doubled"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    def __init__(self) -> None:
        self._next = 1  # the number of the update from which on it is worth while to look again

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Compare addresses, and look at what configurations say."""
        at = update.updates
        if at < self._next:
            return
        self._next = 2 * at
        event = next((each for each in update.events if each.kind is Kind.BACKWARD and each.site), None)
        if event is None:
            return
        yield from self._doubled(run, event, update.number)
        yield from self._untied(run, event, update.number)

    def _doubled(self, run: Run, event: Event, number: int) -> Iterator[Finding]:
        assert event.site is not None
        at: dict[tuple[Any, int, int], Any] = {}
        for owner in run.instrument(Ledger).owners():
            for each in owner.parameters():
                if not _is_plain(each):
                    continue
                other = at.setdefault((each.device, each.data_ptr(), each.numel()), each)
                if other is each:
                    continue
                spots = run.instrument(Models).parameters()
                one, two = (spots[id(p)].name if id(p) in spots else f"a {tuple(p.shape)}" for p in (other, each))
                places = {"backward": event.site.place}
                if owner.made is not None:
                    places["optimizer constructed"] = owner.made.place
                yield self._finding(
                    places,
                    f"{one} and {two}",
                    f"{one} and {two} are two parameters of {owner.label} on the same {each.numel():,} numbers",
                    "each has a gradient and moments of its own, and every step moves the shared values twice",
                    "tie by assigning the parameter itself (b.weight = a.weight), not its .data, before the "
                    "optimizer is constructed",
                    number,
                )

    def _untied(self, run: Run, event: Event, number: int) -> Iterator[Finding]:
        assert event.site is not None
        for model in run.instrument(Models).roots():
            if _should_be_tied(model):
                name = type(model).__name__
                yield self._finding(
                    {"backward": event.site.place},
                    name,
                    f"the configuration of {name} says tie_word_embeddings, but its input and output embeddings are "
                    "two parameters with values of their own",
                    "they are trained apart, and what is saved and loaded again is one of them",
                    "call model.tie_weights() after loading, resizing or materializing, and before the optimizer is "
                    "constructed",
                    number,
                )

    def _finding(self, places: Any, subject: str, seen: str, why: str, remedy: str, number: int) -> Finding:
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=places.get("optimizer constructed", places["backward"]),
            places=places,
            subject=subject,
            seen=seen,
            why=why,
            remedy=remedy,
            evidence={"parameters": subject},
            step=number,
        )


def _is_plain(parameter: Any) -> bool:
    """A trainable parameter with an address of its own: not sharded, sparse, quantized or without data."""
    return (
        type(parameter) is nn.Parameter
        and parameter.requires_grad
        and type(parameter.data).__name__ == "Tensor"
        and not parameter.is_sparse
        and parameter.numel() > 0
        and parameter.data_ptr() != 0
    )


def _should_be_tied(model: Any) -> bool:
    """Whether a model in the manner of transformers says that its embeddings are tied, and they are not."""
    said = getattr(getattr(model, "config", None), "tie_word_embeddings", None) is True
    if not said or not getattr(model, "_tied_weights_keys", None):
        return False
    try:
        given, taken = (getattr(model, f"get_{end}_embeddings")() for end in ("input", "output"))
        # Not as attributes: those of parametrized layers are computed, and may count how often.
        one, other = given._parameters["weight"], taken._parameters["weight"]
    except Exception:  # noqa: BLE001
        return False  # the user's code, and not every model has both
    plain = _is_plain(one) and _is_plain(other)
    return plain and one.shape == other.shape and one.data_ptr() != other.data_ptr()
