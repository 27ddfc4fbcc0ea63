"""`loopkit curves`: what it reads, what it says, and what it refuses."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from loopkit.cli import main
from tests.cli.command import loopkit

Scalars = dict[str, list[float]]


def falls(n: int) -> float:
    return 0.05 + 2.2 * math.exp(-n / 4)


def turns(n: int) -> float:
    return 0.6 + 0.3 * max(0, 5 - n) + 0.1 * max(0, n - 5)


OVERFITS = [falls(n) for n in range(20)], [turns(n) for n in range(20)]


def write_scalars(folder: Path, scalars: Scalars) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for tag, values in scalars.items():
            for step, value in enumerate(values):
                writer.add_scalar(tag, value, step)


def verdicts(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> dict[str, list[str]]:
    """The kinds for each pair of curves, by run and names."""
    assert main(["curves", str(path), "--format", "json", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == 1
    return {
        f"{curve['run']}: {curve['train']}, {curve['validation']}": [each["kind"] for each in curve["readings"]]
        for curve in report["curves"]
    }


# -- TensorBoard -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train/loss", "val/loss"),
        ("train/loss", "eval/loss"),
        ("train_loss_epoch", "val_loss"),
        ("Loss/train", "Loss/test"),
        ("loss", "valid_loss"),
        ("trainLoss", "validationLoss"),
        ("loss/train/total", "loss/val/total"),
        ("train/box_loss", "val/box_loss"),
    ],
)
def test_the_names_that_people_use(tmp_path: Path, capsys: pytest.CaptureFixture[str], train: str, val: str) -> None:
    write_scalars(
        tmp_path, {train: OVERFITS[0], val: OVERFITS[1], "train/grad_norm": [1.0] * 20, "epoch": [1.0] * 20}
    )
    assert verdicts(capsys, tmp_path) == {f".: {train}, {val}": ["overfitting"]}


def test_sub_runs_are_runs_of_their_own_but_for_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scalars(tmp_path / "one", {"train/loss": OVERFITS[0]})
    write_scalars(tmp_path / "keras" / "train", {"epoch_loss": OVERFITS[0], "epoch_learning_rate": [0.1] * 20})
    write_scalars(tmp_path / "keras" / "validation", {"epoch_loss": OVERFITS[1]})
    write_scalars(tmp_path / "Loss_train", {"Loss": OVERFITS[0]})  # as add_scalars does
    write_scalars(tmp_path / "Loss_val", {"Loss": OVERFITS[1]})
    assert verdicts(capsys, tmp_path) == {
        ".: train/Loss, val/Loss": ["overfitting"],
        "keras: train/epoch_loss, validation/epoch_loss": ["overfitting"],
        "one: train/loss, None": ["healthy"],
    }


def test_scalars_that_are_written_as_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.scalar.metadata import create_summary_metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    writer = EventFileWriter(str(tmp_path))
    for step, loss in enumerate(OVERFITS[0]):
        event = Event(step=step, wall_time=float(step))
        value = event.summary.value.add(tag="epoch_loss", tensor=make_tensor_proto(loss, dtype="float32"))
        value.metadata.CopyFrom(create_summary_metadata(display_name="", description=""))
        writer.add_event(event)
    writer.close()
    assert verdicts(capsys, tmp_path) == {".: epoch_loss, None": ["healthy"]}


def test_a_metric_of_known_direction_is_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    falling = [0.9 - 0.03 * abs(n - 6) for n in range(20)]
    write_scalars(
        tmp_path, {"train/loss": OVERFITS[0], "val/loss": [falls(n) for n in range(20)], "val/accuracy": falling}
    )
    assert verdicts(capsys, tmp_path) == {".: train/loss, val/loss": ["overfitting", "healthy"]}


def test_a_file_that_ends_in_mid_record_is_read_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scalars(tmp_path, {"train/loss": OVERFITS[0], "val/loss": OVERFITS[1]})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    assert verdicts(capsys, tmp_path) == {".: train/loss, val/loss": ["overfitting"]}


class Noise(Dataset[dict[str, Tensor]]):
    """Few rows with random labels: all there is to learn is each by heart."""

    def __init__(self, rows: int, seed: int) -> None:
        source = torch.Generator().manual_seed(seed)
        self.x = torch.randn(rows, 16, generator=source)
        self.labels = torch.randint(4, (rows,), generator=source)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 4))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture
def hf_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What HF Trainer's TensorBoard callback and its checkpoint write of a run that overfits."""
    from transformers import Trainer, TrainingArguments, trainer_utils

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer_utils.set_seed(0)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        num_train_epochs=12,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        report_to=["tensorboard"],
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    trainer = Trainer(model=Classifier(), args=arguments, train_dataset=Noise(64, 1), eval_dataset=Noise(64, 2))
    trainer.train()
    trainer.save_state()
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_hf_trainer(hf_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    written = [path.parent for path in hf_folder.rglob("*.tfevents.*")]
    assert written, "HF Trainer wrote no event file"
    found = verdicts(capsys, written[0])
    assert found == {".: train/loss, eval/loss": ["overfitting"]}
    assert verdicts(capsys, hf_folder / "out" / "trainer_state.json") == found


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_lightnings_logger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(lightning.LightningModule):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Classifier()

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            loss = self.inner(**batch)["loss"]
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss  # type: ignore[no-any-return]

        def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
            self.log("val_loss", self.inner(**batch)["loss"])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=5e-3)

    trainer = lightning.Trainer(
        max_epochs=12,
        logger=TensorBoardLogger(str(tmp_path)),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=2,
        num_sanity_val_steps=0,
    )
    trainer.fit(Module(), DataLoader(Noise(64, 1), 8, shuffle=True), DataLoader(Noise(64, 2), 64))
    capsys.readouterr()
    found = verdicts(capsys, tmp_path)
    assert found == {"lightning_logs/version_0: train_loss_epoch, val_loss": ["overfitting"]}


# -- JSON ------------------------------------------------------------------------------------------------

ROWS = [[n, name, value] for name, values in zip(("train/loss", "val/loss"), OVERFITS, strict=True) for n, value in
        enumerate(values)]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "pair"),
    [
        ({"rows": ROWS}, ".: train/loss, val/loss"),
        (
            {"train/loss": [[n, v] for n, _, v in ROWS[:20]], "val/loss": [[n, v] for n, _, v in ROWS[20:]]},
            ".: train/loss, val/loss",
        ),
        ({"loss": OVERFITS[0], "val_loss": OVERFITS[1], "note": "mine", "tags": ["a", "b"]}, ".: loss, val_loss"),
        (
            {"log_history": [{"step": n, "epoch": 1.0, "loss": v} for n, _, v in ROWS[:20]]
             + [{"step": n, "epoch": 1.0, "eval_loss": v, "eval_runtime": 1.0} for n, _, v in ROWS[20:]]},
            ".: train/loss, eval/loss",
        ),
    ],
)  # fmt: skip
def test_histories_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any], pair: str
) -> None:
    (tmp_path / "trainer_state.json").write_text(json.dumps(content))
    assert verdicts(capsys, tmp_path / "trainer_state.json") == {pair: ["overfitting"]}
    assert verdicts(capsys, tmp_path) == {pair: ["overfitting"]}


def test_nan_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h.json").write_text(json.dumps({"loss": [*OVERFITS[0], math.nan, None]}))
    assert verdicts(capsys, tmp_path / "h.json") == {".: loss, None": ["diverging"]}
    assert main(["curves", str(tmp_path / "h.json")]) == 0
    assert "infinite from step 21 to the end" in capsys.readouterr().out


def test_names_can_be_said_and_so_can_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h.json").write_text(json.dumps({"policy_loss": [0.25 + 0.01 * (n % 2) for n in range(20)]}))
    path = tmp_path / "h.json"
    assert verdicts(capsys, path, "--train", "policy_loss") == {".: policy_loss, None": ["underfitting"]}
    found = verdicts(capsys, path, "--train", "policy_loss", "--reference", "2.3")
    assert found == {".: policy_loss, None": ["flat"]}


# -- text ------------------------------------------------------------------------------------------------


def test_the_text_shows_the_curves_and_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text(json.dumps({"loss": OVERFITS[0], "val_loss": OVERFITS[1]}))
    done = loopkit("curves", "h.json", cwd=tmp_path, PYTHONIOENCODING="utf-8")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[1].startswith("  loss      █")
    assert lines[1].split()[2:5] == ["2.25", "→", f"{(falls(17) + falls(18)) / 2:.4g}"]
    assert lines[1].endswith("   20 points, steps 1 to 20")
    assert lines[3] == "  overfitting, since step 6"
    assert lines[4].startswith("    seen   validation was best at step 6 with 0.6 and is at 1.8")
    assert lines[5].startswith("    try    keep the weights of that step")
    plain = loopkit("curves", "h.json", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert plain.code == 0
    assert plain.out.isascii()


# -- what it refuses -------------------------------------------------------------------------------------


def _nothing(folder: Path) -> Path:
    return folder / "no" / "such"


def _empty(folder: Path) -> Path:
    return folder


def _no_scalars(folder: Path) -> Path:
    write_scalars(folder, {})
    return folder


def _no_losses(folder: Path) -> Path:
    write_scalars(folder, {"accuracy": [0.1], "loss_G": [0.1]})
    return folder


def _one_file(folder: Path) -> Path:
    write_scalars(folder, {"loss": [0.1]})
    return next(folder.iterdir())


def _text(folder: Path) -> Path:
    (folder / "h.json").write_text("epoch 1: 0.3")
    return folder / "h.json"


def _list(folder: Path) -> Path:
    (folder / "h.json").write_text("[1, 2]")
    return folder / "h.json"


def _deep(folder: Path) -> Path:
    (folder / "h.json").write_text("[" * 100_000)
    return folder / "h.json"


def _binary(folder: Path) -> Path:
    (folder / "h.json").write_bytes(b"\xff\xfe\x00")
    return folder / "h.json"


def _strings(folder: Path) -> Path:
    (folder / "h.json").write_text('{"loss": ["a", "b"]}')
    return folder / "h.json"


def _garbage(folder: Path) -> Path:
    (folder / "events.out.tfevents.1.x").write_bytes(struct.pack("<Q", 10**6) + b"garbage" * 100)
    return folder


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (_nothing, "there is no"),
        (_empty, "neither TensorBoard event files with scalars nor a trainer_state.json"),
        (_no_scalars, "neither TensorBoard event files with scalars"),
        (_no_losses, "no loss among the names in"),
        (_no_losses, "accuracy, loss_G; choose some with --train and --val"),
        (_one_file, "give the folder it lies in"),
        (_text, "is not JSON"),
        (_list, "it should be"),
        (_deep, "is not JSON"),
        (_binary, "is not JSON"),
        (_strings, "it should be"),
        (_garbage, "event files"),
    ],
)
def test_bad_files_are_named_with_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Callable[[Path], Path], says: str
) -> None:
    path = made(tmp_path)
    assert main(["curves", str(path)]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.startswith("loopkit: ")
    assert "Traceback" not in told


def test_an_unknown_name_and_a_wrong_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h.json").write_text(json.dumps({"my_loss": OVERFITS[0]}))
    assert main(["curves", str(tmp_path / "h.json"), "--train", "my_los"]) == 2
    assert "nothing is named 'my_los'; did you mean 'my_loss'?" in capsys.readouterr().err
    assert main(["curves", str(tmp_path / "h.json"), "--reference", "0"]) == 2
    assert "--reference takes a positive loss" in capsys.readouterr().err


def test_without_tensorboard_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scalars(tmp_path, {"loss": [0.1]})
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing", None)
    assert main(["curves", str(tmp_path)]) == 2
    assert "pip install 'torch-loopkit[tensorboard]'" in capsys.readouterr().err
