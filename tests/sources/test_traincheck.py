"""The silent errors that TrainCheck's paper and artifact list, by their names there, as far as one rule names them.

Left out: DS-1801, PT-84803 and PT-96600 lie inside libraries and hardware, of which `replicas-diverged` sees the
symptom; TF-23723 is a contract of a generation call. DS-5794 has no rule: ranks that call collectives with other
arguments each hang or fail in the collective, and to compare them before would take collectives of our own. Nor has
TF-33455, a run that is ended too early: how long it was meant to be stands in the trainer's own variables.
"""

from __future__ import annotations

import pytest

from tests.sources.planted import assert_fires

ERRORS = {
    "SO-60335387": "missing-zero-grad",
    "PT-Forum-84911": "trainable-set-suspicious",
    "x-jxmnop": "ddp-forward-bypassed",
    "PT-104336": "wrapped-params-changed",
    "DS-1801": "replicas-diverged",
    "PT-115607": "params-not-updated",
    "PT-51800": "degenerate-init",
    "LT-725": "dtype-not-as-intended",
    "SO-67180955": "rng-identical-across-workers",
    "TF-17877": "pretrained-weights-not-in-use",
    "TF-33844": "stochastic-op-in-eval",
    "TF-34204": "input-suspicious",
    "TF-29903": "saved-weights-empty",
    "AC-2665": "stale-params-in-optimizer",
}


PLANTED = {"TF-34204": "input-suspicious-row"}
"""Where a rule has several loops, the one with that error."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("error", sorted(ERRORS))
def test_is_named(error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_fires(ERRORS[error], capsys, PLANTED.get(error, ""))
