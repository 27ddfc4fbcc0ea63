"""The silent errors that TrainCheck's paper and artifact list, by their names there, as far as one rule names them.

Left out: DS-1801, PT-84803 and PT-96600 lie inside libraries and hardware, of which `replicas-diverged` sees the
symptom; TF-23723 is a contract of a generation call; and those that the README lists as having no rule.
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
    "AC-2665": "stale-params-in-optimizer",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("error", sorted(ERRORS))
def test_is_named(error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_fires(ERRORS[error], capsys)
