"""Lightning's callback, by hand and by its entry point."""

from __future__ import annotations

import importlib.metadata
import logging
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit
from loopkit.integrations.lightning import LoopkitCallback
from tests.cli.command import python
from tests.frameworks.trainers import lightning_module
from tests.integrations.doors import found, one, quiet, trains_alike
from tests.watched import line_of

ROOT = Path(__file__).parents[2]
GROUPS = ["lightning.pytorch.callbacks_factory", "pytorch_lightning.callbacks_factory"]


def trainer(*callbacks: Any) -> Any:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def trained(*callbacks: Any, module: Any = None) -> nn.Module:
    module = module or lightning_module(manual=True)
    features = torch.randn(16, 4)
    data = DataLoader(TensorDataset(features, features[:, :2].clone()), batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(*callbacks).fit(module, data)
    net: nn.Module = module.net
    return net


@pytest.mark.parametrize("manual", [True, False])
def test_a_correct_training_is_silent(manual: bool) -> None:
    callback = LoopkitCallback(**quiet())
    trained(callback, module=lightning_module(manual))
    assert found(callback.door) == []
    assert callback.door.run is not None
    assert callback.door.run.steps == 4


def test_a_bug_is_found_once_at_its_line() -> None:
    callback = LoopkitCallback(**quiet())
    trained(callback, module=lightning_module(manual=True, bug="zero-grad-before-step"))
    one(callback.door, "zero-grad-before-step", line_of(lightning_module, "# too late"))


def test_weights_are_the_same_bit_for_bit() -> None:
    trains_alike(lambda watched: trained(*([LoopkitCallback(**quiet())] if watched else [])))


def test_an_exception_in_training_closes_the_watch() -> None:
    module = lightning_module(manual=False)

    def fails(*args: Any) -> None:
        raise ValueError("mine")

    module.training_step = fails
    callback = LoopkitCallback(**quiet())
    with pytest.raises(ValueError, match="mine"):
        trained(callback, module=module)
    assert found(callback.door) == []
    assert callback.door.run is not None
    assert callback.door.run.ending == "failed"


def test_inside_an_open_watch_it_joins(capsys: pytest.CaptureFixture[str]) -> None:
    callback = LoopkitCallback()
    with loopkit.watch() as run:
        trained(callback, module=lightning_module(manual=True, bug="zero-grad-before-step"))
        assert loopkit.current_run() is run
    said = capsys.readouterr().err
    assert said.count("zero-grad-before-step  (proof") == 1
    assert said.count("optimizer steps watched") == 1


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyproject.toml registers, as an installed distribution has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path / "torch_loopkit-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-loopkit\nVersion: 0\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert all(len(importlib.metadata.entry_points(group=group)) == 1 for group in GROUPS)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("asked", [None, "", "0"])
def test_the_entry_point_is_inert_unless_asked_for(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if asked is None:
        monkeypatch.delenv("LOOPKIT", raising=False)
    else:
        monkeypatch.setenv("LOOPKIT", asked)
    assert not any(isinstance(each, LoopkitCallback) for each in trainer().callbacks)


def test_what_is_inert_imports_nothing_of_ours() -> None:
    code = (
        "import sys\nfrom loopkit_plugins.integrations.lightning import callbacks\n"
        "assert callbacks() == []\nassert 'loopkit' not in sys.modules\n"
    )
    assert python("-c", code, cwd=ROOT).code == 0


@pytest.mark.usefixtures("installed")
def test_asked_for_it_watches_every_trainer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOPKIT", "1")
    trained(module=lightning_module(manual=True, bug="zero-grad-before-step"))
    assert loopkit.current_run() is None
    assert capsys.readouterr().err.count("zero-grad-before-step  (proof") == 1


@pytest.mark.usefixtures("installed")
def test_the_older_name_of_lightning_has_its_own_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    pytorch_lightning = pytest.importorskip("pytorch_lightning")
    monkeypatch.setenv("LOOPKIT", "1")
    made = pytorch_lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    from loopkit.integrations.pytorch_lightning import LoopkitCallback as Older

    assert [type(each) for each in made.callbacks].count(Older) == 1
