"""NLLLoss is given scores or probabilities where it takes log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Criteria, CriterionReading, Finding, Run, Severity, Update, hookimpl

_OFF = 0.1
"""By how much the logarithm of the sum of a row's probabilities must miss 0."""
_SUM = 1e-3
"""By how much a row of probabilities may miss 1 in sum."""
_SCORES = frozenset(
    (
        *("Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Linear", "Convolution", "MkldnnLinear", "MkldnnConvolution"),
        *("Relu", "LeakyRelu", "Gelu", "Elu", "Silu", "Tanh", "Hardtanh", "Threshold", "NativeDropout"),
        *("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "AdaptiveAvgPool2D"),
    )
)
"""Operations that make scores: nothing about their results is normalised."""
_PROBABILITIES = frozenset(("Softmax", "Sigmoid", "Exp", "Div"))


class NllOnRawScores:
    """NLLLoss reads its input as log-probabilities, and gets scores or probabilities.

    What it looks for
        `nn.NLLLoss` or `F.nll_loss` whose input comes straight from a layer (linear, convolution, activation,
        dropout) and holds rows that are no log-probabilities: the sum of what they would be the logarithm of is not
        1. Or whose input is a softmax: values between 0 and 1 that sum to 1.

    Why that hurts
        The loss is only minus the score of the right class. Nothing holds the other scores down: the loss falls below
        zero without bound, and the weights grow. With probabilities it stays between -1 and 0, and its gradient
        vanishes for the samples that are wrong.

    A loop that has it
        loss = nn.NLLLoss()(model(x), y)        # model ends in nn.Linear
        loss.backward()

    The repair
        Use `nn.CrossEntropyLoss` on the scores, or end the model in `nn.LogSoftmax(dim=1)`.

    Left alone
        Log-probabilities, also those made by hand; log-densities, which need not sum to 1; scores that the loss uses
        in another place as well, such as `logsumexp(scores) + nll_loss(scores, y)`; inputs made by other operations.

    What it costs
        A sum over the first rows of the input in the first four updates, in new shapes of update, and then ever more
        rarely.
    """

    rule = "nll-on-raw-scores"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge each call of the loss that was read."""
        for call in run.instrument(Criteria).of(update).calls:
            if call.kind != "nll_loss" or call.shared or call.classes < 2:
                continue
            numbers = call.numbers
            if call.origin in _PROBABILITIES and _is_probability(call):
                yield self._finding(call, "probabilities", Severity.WARNING)
            elif call.origin in _SCORES and numbers["in_logs"] > _OFF:
                yield self._finding(call, "scores", Severity.ERROR)

    def _finding(self, call: CriterionReading, what: str, severity: Severity) -> Finding:
        low, high = call.numbers["in_low"], call.numbers["in_high"]
        if what == "scores":
            off = call.numbers["in_logs"]
            seen = (
                f"nll_loss got raw scores ({call.origin}) between {low:.4g} and {high:.4g}: read as "
                f"log-probabilities, a row of them misses 0 by up to {off:.4g} in logsumexp"
            )
            why = "the loss is minus one score, which nothing holds down: it falls below zero without bound"
            remedy = "use cross_entropy (CrossEntropyLoss) on the scores, or apply log_softmax before nll_loss"
        else:
            seen = f"nll_loss got probabilities ({call.origin}) between {low:.4g} and {high:.4g} whose rows sum to 1"
            why = (
                "it reads log-probabilities: the loss is negative, and its gradient vanishes where the model is wrong"
            )
            remedy = "apply log_softmax instead of softmax, or leave it out and use cross_entropy (CrossEntropyLoss)"
        return Finding(
            rule=self.rule,
            severity=severity,
            confidence=self.confidence,
            place=call.site.place,
            seen=seen,
            why=why,
            remedy=remedy,
            evidence={
                "input": what,
                "made_by": call.origin,
                "low": low,
                "high": high,
                "loss": call.numbers["loss"],
                "framework": str(call.site.framework) if call.site.framework else None,
            },
        )


def _is_probability(call: CriterionReading) -> bool:
    numbers = call.numbers
    return numbers["in_low"] >= 0 and numbers["in_high"] <= 1 + _SUM and numbers["in_sums"] < _SUM
