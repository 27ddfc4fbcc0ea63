"""KLDivLoss is given probabilities or scores where it takes log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator

from loopkit import Confidence, Criteria, CriterionReading, Finding, Run, Severity, Update, hookimpl

_OFF = 0.1
"""By how much the logarithm of the sum of a row's probabilities must miss 0."""
_SUM = 1e-3
"""By how much a row of probabilities may miss 1 in sum."""
_SCORES = frozenset(
    ("Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Linear", "Convolution", "MkldnnLinear", "MkldnnConvolution")
)


class KlOnProbabilities:
    """KLDivLoss reads its input as log-probabilities, and gets probabilities or scores.

    What it looks for
        `nn.KLDivLoss` or `F.kl_div` whose input holds values between 0 and 1 whose rows sum to 1; or comes straight
        from a linear layer or convolution and does not sum to 1 in powers while the target sums to 1; or, with
        `log_target=True`, whose target holds such probabilities.

    Why that hurts
        The value is no divergence: it can be negative, is not 0 where both distributions agree, and has its minimum
        elsewhere.

    A loop that has it
        loss = F.kl_div(F.softmax(student(x), dim=-1), F.softmax(teacher(x), dim=-1), reduction="batchmean")
        loss.backward()

    The repair
        `F.kl_div(F.log_softmax(student(x), dim=-1), teacher_probabilities, reduction="batchmean")`: the input in
        logarithms, the target as it is, or in logarithms with `log_target=True`.

    Left alone
        Log-probabilities, however they were made; measures that are not normalised; scores that the loss uses in
        another place as well.

    What it costs
        A sum over the first rows of input and target in the first four updates, in new shapes of update, and then
        ever more rarely.
    """

    rule = "kl-on-probabilities"
    severity = Severity.ERROR
    confidence = Confidence.PROOF

    @hookimpl
    def update_finished(self, run: Run, update: Update) -> Iterator[Finding]:
        """Judge each call of the loss that was read."""
        for call in run.instrument(Criteria).of(update).calls:
            if call.kind != "kl_div" or "in_sums" not in call.numbers or call.shared:
                continue
            what = _wrong(call)
            if what:
                yield self._finding(call, *what)

    def _finding(self, call: CriterionReading, where: str, seen: str) -> Finding:
        loss = call.numbers["loss"]
        remedy = (
            "give it log_softmax(scores, dim=-1)"
            if where == "input"
            else "leave out log_target, or take target.log()"
        )
        return Finding(
            rule=self.rule,
            severity=self.severity,
            confidence=self.confidence,
            place=call.site.place,
            seen=seen,
            why=f"kl_div reads its {where} as log-probabilities: what it returns ({loss:.4g}) is no divergence, can "
            "be negative, and is not least where both agree",
            remedy=remedy,
            evidence={
                "where": where,
                "made_by": call.origin,
                "low": call.numbers["in_low"],
                "high": call.numbers["in_high"],
                "loss": loss,
                "framework": str(call.site.framework) if call.site.framework else None,
            },
        )


def _wrong(call: CriterionReading) -> tuple[str, str] | None:
    """Which argument is no logarithm, and what was seen of it."""
    numbers = call.numbers
    low, high = numbers["in_low"], numbers["in_high"]
    if low >= 0 and high > 0 and high <= 1 + _SUM and numbers["in_sums"] < _SUM:
        return "input", f"the input of kl_div holds values between {low:.4g} and {high:.4g} whose rows sum to 1"
    if "sums" not in numbers:
        return None
    is_target = numbers["low"] >= 0 and numbers["high"] > 0 and numbers["sums"] < _SUM
    if is_target and call.smoothed:
        return "target", (
            f"with log_target=True the target of kl_div holds values between {numbers['low']:.4g} and "
            f"{numbers['high']:.4g} whose rows sum to 1"
        )
    if is_target and call.origin in _SCORES and numbers["in_logs"] > _OFF:
        return "input", (
            f"the input of kl_div is raw scores ({call.origin}) between {low:.4g} and {high:.4g}: read as "
            f"log-probabilities, a row misses 0 by up to {numbers['in_logs']:.4g} in logsumexp"
        )
    return None
