"""What a step costs in a loop by hand, in `Loop`, and in the loops of others: the same model, data and optimizer.

Each loop trains anew and notes the clock at two of its own optimizer steps, so that what it does before and after
training does not count. It is paired with a loop by hand that runs just before or after it; medians of the pairs.
"""

from __future__ import annotations

import datetime
import gc
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loopkit

WARM_UP, STEPS, PAIRS = 100, 400, 15
TOTAL = WARM_UP + STEPS
LIMIT = 25


class Clocked(torch.optim.AdamW):
    """Notes the clock when the warm-up is over and when all is done."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=1e-4)
        self.count, self.began, self.ended = 0, 0.0, 0.0

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        self.count += 1
        if self.count == WARM_UP:
            self.began = time.perf_counter()
        elif self.count == TOTAL:
            self.ended = time.perf_counter()
        return result


class Net(nn.Module):
    """The perceptron of the other table; with labels it returns its loss, as HF Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        output = self.layers(x)
        return output if labels is None else {"loss": nn.functional.cross_entropy(output, labels)}


Parts = tuple[Net, Clocked, Any, DataLoader[Any]]


def by_hand(parts: Parts) -> None:
    net, optimizer, scheduler, loader = parts
    criterion = nn.CrossEntropyLoss()
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(net(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()


def loop(parts: Parts) -> None:
    net, optimizer, scheduler, loader = parts
    loopkit.Loop(
        net, optimizer, loader, loss=nn.CrossEntropyLoss(), scheduler=scheduler, device="cpu", autoload=False
    ).run(epochs=1)


def loop_with_checks(parts: Parts) -> None:
    net, optimizer, scheduler, loader = parts
    loopkit.Loop(
        net, optimizer, loader, loss=nn.CrossEntropyLoss(), scheduler=scheduler, device="cpu", skip=["console"]
    ).run(epochs=1)


def ignite(parts: Parts) -> None:
    from ignite.engine import Events, create_supervised_trainer

    net, optimizer, scheduler, loader = parts
    trainer = create_supervised_trainer(net, optimizer, nn.CrossEntropyLoss())
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
    trainer.run(loader, max_epochs=1)


def accelerate(parts: Parts) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net, optimizer, scheduler, loader = accelerator.prepare(*parts)
    criterion = nn.CrossEntropyLoss()
    for x, y in loader:
        with accelerator.accumulate(net):
            loss = criterion(net(x), y)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def lightning(parts: Parts) -> None:
    import lightning as framework

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    net, optimizer, scheduler, loader = parts

    class Module(framework.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = net, nn.CrossEntropyLoss()

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            loss: Tensor = self.criterion(self.net(x), y)
            return loss

        def configure_optimizers(self) -> Any:
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    trainer = framework.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader)


def hf_trainer(parts: Parts) -> None:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    net, optimizer, scheduler, loader = parts
    loader.collate_fn = as_dict

    class Given(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return loader

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            max_grad_norm=0.0,
        )
        trainer = Given(model=net, args=arguments, train_dataset=loader.dataset, optimizers=(optimizer, scheduler))
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def as_dict(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    x, y = torch.utils.data.default_collate(rows)
    return {"x": x, "labels": y}


LOOPS: dict[str, Callable[[Parts], None]] = {
    "`Loop(autoload=False)`": loop,
    "`Loop`, all checks on": loop_with_checks,
    "Ignite": ignite,
    "Accelerate": accelerate,
    "Lightning": lightning,
    "HF Trainer": hf_trainer,
}


def main(machine: str) -> None:
    """Measure them all, in turns, and print one table in Markdown."""
    print(f"{datetime.date.today()}, torch {torch.__version__}, {machine}; MLP 32-64-10, batch 32, AdamW\n")
    print("| loop | µs a step | added, µs | at most |")
    print("|---|--:|--:|--:|")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in LOOPS}
    for pair in range(PAIRS):
        for name, run in LOOPS.items():
            first, second = (run, by_hand) if pair % 2 else (by_hand, run)
            one, two = measure(first), measure(second)
            seconds[name].append((one, two) if first is by_hand else (two, one))
    hand = statistics.median(bare for pairs in seconds.values() for bare, _ in pairs)
    print(f"| by hand | {hand:,.0f} | | |")
    for name, pairs in seconds.items():
        added = statistics.median(other - bare for bare, other in pairs)
        step = statistics.median(other for _, other in pairs)
        limit = LIMIT if LOOPS[name] is loop else ""
        print(f"| {name} | {step:,.0f} | {added:,.0f} | {limit} |", flush=True)


def measure(run: Callable[[Parts], None]) -> float:
    """Microseconds a step."""
    rows = TensorDataset(torch.randn(32 * TOTAL, 32), torch.randint(0, 10, (32 * TOTAL,)))
    net = Net()
    optimizer = Clocked(net.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run((net, optimizer, scheduler, DataLoader(rows, batch_size=32, shuffle=True)))
    assert optimizer.count == TOTAL
    return (optimizer.ended - optimizer.began) / STEPS * 1e6
