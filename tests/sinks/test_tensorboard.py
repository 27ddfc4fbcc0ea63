"""The TensorBoard sink: what is read back is what happened."""

from __future__ import annotations

import itertools
import math
import os
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import loopkit
from loopkit import UsageError, cli
from loopkit_plugins.sinks.tensorboard import TensorBoard
from tests.cli.command import BUG, LOOP
from tests.loops import batches, loader, loss_of, model, textbook
from tests.sinks.board import Board, watched


def scaled_loop(seen: dict[str, list[float]], updates: int = 12, window: int = 2, clear: bool = True) -> None:
    """Accumulation, a GradScaler, clipping, a schedule, an evaluation; notes what the sink should say."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for i, (x, y) in enumerate(loader(samples=4 * window * updates)):
        loss = loss_of(net(x), y)
        seen["loss"].append(loss.item())
        scaler.scale(loss / window).backward()
        if i % window == window - 1:
            scaler.unscale_(optimizer)
            seen["norm"].append(nn.utils.clip_grad_norm_(net.parameters(), 0.1).item())
            seen["lr"].append(optimizer.param_groups[0]["lr"])
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            if clear:
                optimizer.zero_grad()
    loopkit.log("val/loss", torch.tensor(0.5))
    loopkit.log("val/accuracy", 0.25)
    loopkit.log("train/accuracy", 0.75)


def notes() -> dict[str, list[float]]:
    return {"loss": [], "norm": [], "lr": []}


def test_every_promised_tag(tmp_path: Path) -> None:
    board, _ = watched(tmp_path, lambda: scaled_loop(notes(), clear=False))
    scalars = set(board.tags())
    assert scalars >= {"train/loss", "train/lr", "train/grad_norm", "train/grad_norm_clipped", "grads/nonfinite"}
    assert scalars >= {"val/loss", "val/accuracy", "train/accuracy", "loopkit/findings_so_far"}
    assert scalars >= {f"time/{part}" for part in ("data", "forward", "backward", "optimizer", "update")}
    assert scalars >= {"grad_norm_by_depth/00_0", "grad_norm_by_depth/01_2"}
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert scalars >= {f"update_ratio/{name}" for name in names}
    assert set(board.tags("histograms")) == {f"{kind}/{name}" for kind in ("grads", "weights") for name in names}
    assert {"loopkit/findings", "loopkit/report", "loopkit/hyperparameters"} <= set(board.tags("tensors"))


def test_numbers_are_those_of_the_loop_at_its_updates(tmp_path: Path) -> None:
    seen = notes()
    board, _ = watched(tmp_path, lambda: scaled_loop(seen), every=3)
    losses = [statistics.fmean(seen["loss"][i : i + 2]) for i in range(0, 24, 2)]
    intervals = {1: losses[:1], 3: losses[1:3], 6: losses[3:6], 9: losses[6:9], 12: losses[9:12]}
    said = board.scalars("train/loss")
    assert said == pytest.approx({step: statistics.fmean(each) for step, each in intervals.items()}, rel=1e-5)
    norms = {step: seen["norm"][step - 1] for step in intervals}
    assert board.scalars("train/grad_norm") == pytest.approx(norms, rel=1e-3)
    clipped = {step: min(norm, 0.1) for step, norm in norms.items()}
    assert board.scalars("train/grad_norm_clipped") == pytest.approx(clipped, rel=1e-3)
    assert board.scalars("train/lr") == pytest.approx({step: seen["lr"][step - 1] for step in intervals})
    layers = [board.scalars(f"grad_norm_by_depth/{layer}") for layer in ("00_0", "01_2")]
    for step, norm in norms.items():
        assert math.hypot(*(layer[step] for layer in layers)) == pytest.approx(norm, rel=1e-3)
    assert board.scalars("val/loss") == {12: 0.5}


def test_what_a_step_changed(tmp_path: Path) -> None:
    """SGD without momentum moves a weight by the learning rate times its gradient."""
    ratios: list[float] = []

    def loop() -> None:
        net = nn.Linear(200, 100, bias=False)  # more values than a sample has
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        for _ in range(3):
            net(torch.ones(2, 200)).square().mean().backward()
            assert net.weight.grad is not None
            ratios.append(0.5 * float(net.weight.grad.norm() / net.weight.detach().norm()))
            optimizer.step()
            optimizer.zero_grad()

    board, _ = watched(tmp_path, loop, ratios_every=1)
    said = board.scalars("update_ratio/weight")
    assert list(said) == [1, 2, 3]
    assert list(said.values()) == pytest.approx(ratios, rel=0.05)
    weights = board.histogram("weights/weight")[0]
    assert 5_000 < weights.num <= 16_384
    assert sum(weights.bucket) == weights.num


def test_gradients_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        for i, (x, y) in enumerate(batches(4)):
            optimizer.zero_grad()
            loss_of(net(x), y).backward()
            if i == 3:
                first, *_, last = net.parameters()
                assert first.grad is not None
                assert last.grad is not None
                first.grad[0, :3] = math.nan
                last.grad[:] = math.inf
            optimizer.step()

    board, _ = watched(tmp_path, loop, every=1, histograms_every=1)
    assert board.scalars("grads/nonfinite") == {1: 0, 2: 0, 3: 0, 4: 5}
    assert not math.isfinite(board.scalars("train/grad_norm")[4])
    assert [each.num for each in board.histogram("grads/0.weight")] == [32, 32, 32, 29]
    assert [each.num for each in board.histogram("grads/2.bias")] == [2, 2, 2]
    assert all(math.isfinite(each.sum) for each in board.histogram("grads/0.weight"))


def test_the_layout_puts_side_by_side_what_belongs_so(tmp_path: Path) -> None:
    board, _ = watched(tmp_path, lambda: scaled_loop(notes()))
    layout = board.layout()

    def matches(category: str, chart: str) -> list[str]:
        patterns = layout[category][chart]
        return [tag for tag in board.tags() if any(re.match(pattern, tag) for pattern in patterns)]

    assert set(matches("train and validation", "loss")) == {"train/loss", "val/loss"}
    assert set(matches("train and validation", "accuracy")) == {"train/accuracy", "val/accuracy"}
    assert matches("gradients", "gradient norm by depth") == ["grad_norm_by_depth/00_0", "grad_norm_by_depth/01_2"]
    assert matches("loop", "learning rate") == ["train/lr"]
    for category, charts in layout.items():
        assert all(matches(category, chart) for chart in charts), f"an empty chart in {category}"


def test_hyperparameters(tmp_path: Path) -> None:
    board, _ = watched(tmp_path, lambda: scaled_loop(notes()))
    found = board.hyperparameters()
    assert found["optimizer"] == "AdamW"
    assert found["lr"] == 0.01  # before the schedule
    assert found["betas"] == "0.9, 0.999"
    assert (found["batch_size"], found["model"], found["parameters"]) == (4, "Sequential", 58)
    assert "| batch_size | 4 |" in board.texts("loopkit/hyperparameters")[0][1]
    assert set(board.tags("tensors")) >= {"loopkit/hyperparameters"}


def test_findings_are_texts_at_their_updates(tmp_path: Path) -> None:
    board, run = watched(tmp_path, lambda: scaled_loop(notes(), clear=False), every=1)
    finding = next(each for each in run.findings if each.rule == "missing-zero-grad")
    steps = [step for step, text in board.texts("loopkit/findings") if "error: missing-zero-grad" in text]
    assert steps == [finding.step] == [2]
    assert finding.seen in board.texts("loopkit/findings")[0][1]
    assert finding.seen in board.texts("loopkit/report")[0][1]
    so_far = board.scalars("loopkit/findings_so_far")
    assert (so_far[1], so_far[12]) == (0, len(run.findings))


def test_a_model_of_500_parameters_has_a_bounded_number_of_tags(tmp_path: Path) -> None:
    def loop() -> None:
        net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(250)))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net(torch.ones(2, 3)).mean().backward()
        optimizer.step()

    board, _ = watched(tmp_path, loop)
    shown = [tag.removeprefix("weights/") for tag in board.tags("histograms") if tag.startswith("weights/")]
    assert len(shown) == 64
    layers = [int(name.split(".")[0]) for name in shown]
    assert (layers[0], layers[-1]) == (0, 249)
    assert max(b - a for a, b in itertools.pairwise(layers)) <= 4
    depth = [tag for tag in board.tags() if tag.startswith("grad_norm_by_depth/")]
    assert len(depth) == 24
    assert depth == sorted(depth, key=lambda tag: int(tag.rpartition("_")[2]))
    assert len(board.tags()) < 110
    ((_, words),) = board.texts("loopkit/not_shown")
    assert "64 of 500 parameters" in words


# -- loops of all kinds ----------------------------------------------------------------------------------


def adversarial() -> None:
    one, two = nn.Linear(3, 3), nn.Linear(3, 1)
    optimizers = torch.optim.Adam(one.parameters(), lr=0.1), torch.optim.SGD(two.parameters(), lr=0.2)
    for _ in range(20):
        for optimizer in optimizers:
            optimizer.zero_grad()
            two(one(torch.ones(2, 3))).mean().backward()
            optimizer.step()


def test_two_optimizers_take_turns(tmp_path: Path) -> None:
    board, _ = watched(tmp_path, adversarial)
    assert list(board.scalars("train/lr")) == [1, 11, 21, 31]
    assert list(board.scalars("train/lr/optimizer1")) == [2, 10, 20, 30, 40]
    assert list(board.scalars("train/loss")) == [1, 11, 21, 31]
    assert list(board.scalars("train/lr/optimizer1").values()) == pytest.approx([0.2] * 5)


def lbfgs() -> None:
    net = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = net(torch.ones(2, 3)).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def odd_parameters() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    turn = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    unused, frozen = nn.Linear(3, 3), nn.Parameter(torch.ones(()), requires_grad=False)
    parameters: list[Tensor] = [*table.parameters(), turn, *unused.parameters(), frozen, nn.Parameter(torch.empty(0))]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (table(torch.tensor([1, 1, 2])) * turn).abs().sum().backward()
        optimizer.step()


def groups() -> None:
    net = model().double()
    first, second, *rest = net.parameters()
    parts: list[dict[str, Any]] = [{"params": [first, second], "lr": 0.1}, {"params": rest}]
    optimizer = torch.optim.AdamW(parts)
    for x, y in batches(3):
        optimizer.zero_grad()
        loss_of(net(x.double()), y.double()).backward()
        nn.utils.clip_grad_value_(net.parameters(), 0.01)
        optimizer.step()


def evaluates() -> None:
    net = model().bfloat16()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in loader():
            optimizer.zero_grad()
            loss_of(net(x.bfloat16()), y.bfloat16()).backward()
            optimizer.step()
        with torch.no_grad():
            for x, _ in loader():
                net(x.bfloat16())


def never_steps() -> None:
    model()(torch.ones(2, 4)).mean().backward()


@pytest.mark.parametrize(
    ("loop", "tags"),
    [
        (lbfgs, {"train/loss", "train/grad_norm", "time/optimizer", "update_ratio/weight"}),
        (odd_parameters, {"train/loss", "train/grad_norm", "update_ratio/weight", "update_ratio/group0.1"}),
        (groups, {"train/lr/group0", "train/lr/group1", "train/grad_norm_clipped"}),
        (evaluates, {"train/loss", "time/data", "grads/nonfinite"}),
        (textbook, {"train/loss", "train/grad_norm_clipped"}),
        (never_steps, set()),
    ],
)
def test_odd_loops(tmp_path: Path, loop: Callable[[], Any], tags: set[str]) -> None:
    board, _ = watched(tmp_path, loop, every=1)
    assert set(board.tags()) >= tags
    if loop is groups:
        assert "train/grad_norm" not in board.tags()  # before a clip by value, nobody knows


def test_skipped_steps_are_counted_and_their_losses_left_out(tmp_path: Path) -> None:
    def loop() -> None:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for i, (x, y) in enumerate(batches(4)):
            loss = loss_of(net(x), y) * 0 + (math.inf if i == 1 else 2.0)
            scaler.scale(loss + net(x).sum() * (math.inf if i == 1 else 1e-20)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    board, run = watched(tmp_path, loop, every=1)
    assert run.steps == 3
    assert board.scalars("train/skipped_steps") == {1: 1}
    assert board.scalars("train/loss") == pytest.approx({1: 2.0, 2: 2.0, 3: 2.0})


def test_a_metric_of_the_script_replaces_ours(tmp_path: Path) -> None:
    def loop() -> None:
        loopkit.log("train/loss", 7.0, step=0)
        textbook()

    board, _ = watched(tmp_path, loop, every=1)
    assert board.scalars("train/loss") == {0: 7.0}


def test_a_watch_that_joins_late(tmp_path: Path) -> None:
    with loopkit.watch(skip=["console"]):
        sink = TensorBoard(tmp_path)
        with loopkit.watch(plugins=[sink], skip=["console"]):
            textbook()
        sink.run_finished(loopkit.current_run())  # type: ignore[arg-type]
    assert "train/loss" in Board(tmp_path).tags()


def test_a_second_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path)
    for _ in range(2):
        with loopkit.watch(plugins=[sink], skip=["console"]):
            textbook()
    watched(tmp_path, textbook)
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == ["run-2", "run-3"]
    for folder in (tmp_path / "run-2", tmp_path / "run-3"):
        assert "train/loss" in Board(folder).tags()


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with loopkit.watch(plugins=[TensorBoard(tmp_path)], skip=["console"]) as run:
        textbook()
    assert not run.failures
    assert not list(tmp_path.iterdir())


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    def loop() -> None:
        textbook()
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

    board, _ = watched(tmp_path, loop, every=1)
    assert list(board.scalars("train/lr")) == [1, 2, 3, 4]


# -- the command, and what is refused --------------------------------------------------------------------


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(BUG)
    assert cli.main(["run", "--tensorboard", "logs", "script.py"]) == 1
    board = Board(tmp_path / "logs")
    assert {"grads/weight", "weights/bias"} <= set(board.tags("histograms"))
    assert board.texts("loopkit/findings")[0][0] == 2


def test_tensorboard_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(LOOP + "open('ran', 'w').close()\n")
    assert cli.main(["run", "--tensorboard", "logs", "script.py"]) == 2
    assert "pip install 'torch-loopkit[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("folder", ["taken", "taken/logs"])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "script.py").write_text(LOOP + "open('ran', 'w').close()\n")
    assert cli.main(["run", "--tensorboard", folder, "script.py"]) == 2
    assert "cannot write TensorBoard's log to" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("option", ["every", "ratios_every", "histograms_every", "parameters"])
def test_numbers_that_make_no_sense(tmp_path: Path, option: str) -> None:
    options: dict[str, Any] = {option: 0}
    with pytest.raises(UsageError, match=f"{option} takes a number of 1 or more"):
        TensorBoard(tmp_path, **options)
