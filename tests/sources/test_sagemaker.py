"""The rules of SageMaker Debugger that are about PyTorch training, by their names there.

Left out: rules about trees (XGBoost), about two runs (SimilarAcrossRuns), and the profiler's about the machine.
"""

from __future__ import annotations

import pytest

from tests.sources.planted import assert_fires

RULES = {
    "VanishingGradient": ["vanishing-gradient"],
    "ExplodingTensor": ["nonfinite-values", "exploding-gradient", "loss-unstable"],
    "UnchangedTensor": ["params-not-updated", "update-below-ulp", "lr-zero-while-training"],
    "AllZero": ["degenerate-init", "units-dead-or-saturated"],
    "TensorVariance": ["output-collapse", "input-suspicious"],
    "PoorWeightInitialization": ["degenerate-init", "init-loss-off"],
    "LossNotDecreasing": ["loss-not-decreasing"],
    "Overfit": ["train-val-gap"],
    "Overtraining": ["metric-direction-wrong"],
    "ClassImbalance": ["labels-degenerate"],
    "DeadRelu": ["units-dead-or-saturated"],
    "CheckInputImages": ["input-suspicious"],
    "NLPSequenceRatio": ["pad-mask-wrong"],
    "GPUMemoryIncrease": ["loss-graph-retained"],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, rules in RULES.items() for rule in rules])
def test_is_named(name: str, rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_fires(rule, capsys)
