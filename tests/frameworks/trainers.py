"""One small loop in each framework, with places where a mistake can be planted."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.loops import loss_of, model


class Rows(Dataset[dict[str, Tensor]]):
    """What HF Trainer reads: dictionaries."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        features = torch.full((4,), float(index))
        return {"x": features, "labels": features[:2]}


class Net(nn.Module):
    """What HF Trainer trains: returns its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        output = self.inner(x)
        return {"loss": loss_of(output, labels), "logits": output}


def hf_arguments(folder: str, accumulate: int = 1, steps: int = 4) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulate,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def hf(folder: str, accumulate: int = 1, trainer_class: Any = None) -> None:
    from transformers import Trainer

    trainer = (trainer_class or Trainer)(model=Net(), args=hf_arguments(folder, accumulate), train_dataset=Rows())
    trainer.train()


def accelerate(accumulate: int = 1, bug: str = "") -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    features = torch.randn(16, 4)
    data = DataLoader(TensorDataset(features, features[:, :2].clone()), batch_size=4)
    net, optimizer, data, scheduler = accelerator.prepare(net, optimizer, data, scheduler)
    for x, y in data:
        with accelerator.accumulate(net):
            if bug == "step-without-fresh-grad":
                optimizer.zero_grad()
                loss = loss_of(net(x), y)
                optimizer.step()  # too early
                accelerator.backward(loss)
                continue
            if bug == "scheduler-before-optimizer":
                scheduler.scheduler.step()
            accelerator.backward(loss_of(net(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
            if bug == "zero-grad-before-step":
                optimizer.zero_grad()  # too early
            optimizer.step()
            if bug != "scheduler-before-optimizer":
                scheduler.step()
            if bug not in ("missing-zero-grad", "zero-grad-before-step"):
                optimizer.zero_grad()


def lightning(module: Any, accumulate: int = 1) -> None:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    features = torch.randn(16, 4)
    data = DataLoader(TensorDataset(features, features[:, :2].clone()), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0 if module.automatic_optimization else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data)


def lightning_module(manual: bool, bug: str = "") -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not manual
            self.net = model()

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            loss = loss_of(self.net(x), y)
            if not manual:
                return loss
            optimizer, scheduler = self.optimizers(), self.lr_schedulers()
            if bug == "scheduler-before-optimizer":
                scheduler.step()
            if bug == "step-without-fresh-grad":
                optimizer.zero_grad()
                optimizer.step()  # too early
                self.manual_backward(loss)
                return None
            if bug not in ("missing-zero-grad", "zero-grad-before-step"):
                optimizer.zero_grad()
            self.manual_backward(loss)
            if bug == "zero-grad-before-step":
                optimizer.zero_grad()  # too late
            optimizer.step()
            if bug != "scheduler-before-optimizer":
                scheduler.step()
            return None

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    return Module()


def ignite(bug: str = "", accumulate: int = 1) -> None:
    from ignite.engine import Engine, create_supervised_trainer

    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    features = torch.randn(16, 4)
    data = DataLoader(TensorDataset(features, features[:, :2].clone()), batch_size=4)

    def update(engine: Any, batch: Any) -> float:
        x, y = batch
        if bug == "scheduler-before-optimizer":
            scheduler.step()
        if bug == "step-without-fresh-grad":
            optimizer.zero_grad()
            loss = loss_of(net(x), y)
            optimizer.step()  # too early
            loss.backward()
            return float(loss.detach())
        if bug not in ("missing-zero-grad", "zero-grad-before-step"):
            optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        if bug == "zero-grad-before-step":
            optimizer.zero_grad()  # too late
        optimizer.step()
        return float(loss.detach())

    if bug:
        Engine(update).run(data, max_epochs=1)
    else:
        trainer = create_supervised_trainer(net, optimizer, loss_of, gradient_accumulation_steps=accumulate)
        trainer.run(data, max_epochs=1)
