"""The training loop: batches in the reference's order, the reference's loss, optimiser and schedule, on accelerate."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

import loda
from loda.errors import LodaError
from loda.lab.config import OptimConfig, TrainerConfig
from loda.lab.journal import Journal
from loda.lab.loss import target_loss
from loda.lab.optim import ReferenceAdamW, schedule
from loda.lab.order import batches, steps_per_epoch
from loda.lab.progress import Bars
from loda.lab.rows import Row, collate


@dataclass(frozen=True)
class Milestone:
    """A moment whose adapter is kept: its label and the number of updates done by then."""

    label: str
    step: int
    epoch: float


@dataclass(frozen=True)
class Training:
    """What a training did."""

    steps: int
    final_loss: float
    seconds: float
    peak_memory_bytes: int | None


def milestones(rows: int, optim: OptimConfig, max_steps: int | None) -> list[Milestone]:
    """The adapters that a run keeps: those of `keep_epochs` that it reaches, and the last.

    A run that `max_steps` ends before its last epoch keeps its end as "step-N".
    """
    per_epoch = steps_per_epoch(rows, optim.batch_size)
    total = min(optim.epochs * per_epoch, max_steps or math.inf)
    kept = sorted({epoch for epoch in (*optim.keep_epochs, optim.epochs) if epoch * per_epoch <= total})
    found = [Milestone(f"epoch-{epoch}", epoch * per_epoch, epoch) for epoch in kept]
    if not found or found[-1].step != total:
        found.append(Milestone(f"step-{total}", int(total), round(total / per_epoch, 3)))
    return found


def horizon(rows: int, optim: OptimConfig, max_steps: int | None) -> int:
    """The update at which the learning rate reaches 0."""
    return int(min(optim.schedule_epochs * steps_per_epoch(rows, optim.batch_size), max_steps or math.inf))


def pick_device(device: str) -> torch.device:
    """The device that `trainer.device` means here.

    Raises:
        LodaError: CUDA was asked for and is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise LodaError("trainer.device=cuda, but there is no CUDA device; use trainer.device=auto or cpu")
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    return torch.device("cuda" if cuda else "cpu")


def train(
    model: PreTrainedModel,
    rows: Sequence[Row],
    seed: int,
    optim: OptimConfig,
    trainer: TrainerConfig,
    journal: Journal,
    keep: Callable[[Milestone], None],
    bars: Bars,
) -> Training:
    """Train the adapters of `model` in place and call `keep` at every milestone.

    Raises:
        LodaError: the loss became infinite or not a number; the message names the update and its rows.
    """
    marks = {mark.step: mark for mark in milestones(len(rows), optim, trainer.max_steps)}
    total = max(marks)
    accelerator = Accelerator(
        cpu=pick_device(trainer.device).type == "cpu", mixed_precision="bf16" if trainer.precision == "bf16" else "no"
    )
    if accelerator.num_processes > 1:
        raise LodaError("training on several processes is not supported yet; start train.py with plain python")
    optimizer = ReferenceAdamW(loda.trainable_parameters(model).values(), optim)
    model, optimizer = accelerator.prepare(model, optimizer)
    scheduler = LambdaLR(optimizer, schedule(optim.warmup_steps, horizon(len(rows), optim, trainer.max_steps)))
    model.train()
    started, losses = time.monotonic(), []
    order = batches(len(rows), optim.batch_size, seed, optim.epochs)
    progress = bars.bar("train", total, "step")
    for step, indices in zip(range(1, total + 1), order, strict=False):
        batch = collate([rows[i] for i in indices]).to(accelerator.device)
        with accelerator.autocast():
            loss = target_loss(model, batch, optim.label_smoothing)
        lr = float(scheduler.get_last_lr()[0])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.detach())
        if step % trainer.log_every == 0 or step in marks:
            mean = torch.stack(losses).mean().item()
            _check_finite(mean, step, indices)
            journal.log(step, loss=mean, lr=lr, epoch=step / steps_per_epoch(len(rows), optim.batch_size))
            progress.set_postfix(loss=f"{mean:.3f}")
            losses.clear()
        if step in marks:
            keep(marks[step])
        progress.update()
    progress.close()
    peak = torch.cuda.max_memory_allocated() if accelerator.device.type == "cuda" else None
    return Training(total, mean, time.monotonic() - started, peak)


def _check_finite(loss: float, step: int, indices: Sequence[int]) -> None:
    if not math.isfinite(loss):
        raise LodaError(
            f"the loss is {loss} at update {step} (rows {', '.join(map(str, indices))}); "
            "lower optim.lr or set trainer.precision=fp32"
        )
