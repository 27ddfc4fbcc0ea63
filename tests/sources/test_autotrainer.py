"""The five training problems of AUTOTRAINER."""

from __future__ import annotations

import pytest

from tests.sources.planted import assert_fires

PROBLEMS = {
    "gradient vanish": "vanishing-gradient",
    "gradient explode": "exploding-gradient",
    "dying ReLU": "units-dead-or-saturated",
    "oscillating loss": "loss-unstable",
    "slow convergence": "loss-not-decreasing",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_is_named(problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_fires(PROBLEMS[problem], capsys)
