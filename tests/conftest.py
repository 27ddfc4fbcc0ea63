"""Fixtures that hold for every test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LOOPKIT_RAISE"] = "1"  # an error of an instrument fails the test instead of ending the watch

import pytest
import torch
from hypothesis import settings

from loopkit.testing import assert_torch_untouched
from loopkit.watching import current_run

torch.set_num_threads(1)
# A generated loop trains a model: the first run of a kernel may take long, and CI machines are shared.
settings.register_profile("loopkit", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("loopkit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--snapshots-update", action="store_true", help="write the stored texts anew")


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was() -> Iterator[None]:
    """Promise 2, before and after every test."""
    torch.manual_seed(0)
    assert current_run() is None, "a watch was open before the test"
    try:
        with assert_torch_untouched():
            yield
    finally:
        if dynamo := sys.modules.get("torch._dynamo"):  # once anything is compiled, less is heard in that process
            dynamo.reset()
            dynamo.utils.counters.clear()
