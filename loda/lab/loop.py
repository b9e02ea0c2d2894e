"""The training loop: the reference's order, loss, optimiser and schedule, on accelerate.

A step is one batch. An update follows every `optim.accumulate` batches, with the mean of their gradients; the learning
rate moves with every batch, as in LoRA's code.

Several processes share each batch of the run in one process. Every one knows the whole batch, so it divides its part
of the loss by the number of tokens of all; times the number of processes, because DistributedDataParallel takes the
mean of the gradients. So the number of processes changes nothing but dropout, whose noise each draws for itself.
(LoRA's code gives each process batches of its own: more rows to an update, in another order, with another schedule.)
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

import loda
from loda.errors import LodaError
from loda.lab.config import OptimConfig, TrainerConfig
from loda.lab.fast import make_fast, pack
from loda.lab.journal import Journal
from loda.lab.loss import target_loss
from loda.lab.optim import ReferenceAdamW, schedule
from loda.lab.order import batches, steps_per_epoch
from loda.lab.processes import is_main_process, process_count, process_index
from loda.lab.progress import Bars
from loda.lab.rows import Batch, Row, collate

NO_ROW = Row(ids=[0], given=1)
"""Stands in where the last batch of an epoch has fewer rows than there are processes; no position of it counts."""


@dataclass(frozen=True)
class Milestone:
    """A moment whose adapter is kept: its label and the number of batches seen by then."""

    label: str
    step: int
    epoch: float


@dataclass(frozen=True)
class Training:
    """What a training did.

    Attributes:
        steps: batches.
        final_loss: mean loss of the batches that the journal's last line stands for.
        seconds: wall-clock time.
        peak_memory_bytes: most CUDA memory in use at once, on the first process; None without CUDA.
        processes: how many shared the work.
    """

    steps: int
    final_loss: float
    seconds: float
    peak_memory_bytes: int | None
    processes: int


class Objective(nn.Module):
    """The loss as a module: autocast and DistributedDataParallel act on the forward pass of what they wrap."""

    def __init__(self, model: PreTrainedModel, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch, tokens: int) -> Tensor:
        """See `target_loss`."""
        return target_loss(self.model, batch, self.label_smoothing, tokens)


def milestones(rows: int, optim: OptimConfig, max_steps: int | None) -> list[Milestone]:
    """The adapters that a run keeps: those of `keep_epochs` that it reaches, and the last.

    A run that `max_steps` ends before its last epoch keeps its end as "step-N".

    Raises:
        LodaError: the run ends before its first update.
    """
    per_epoch = steps_per_epoch(rows, optim.batch_size)
    total = min(optim.epochs * per_epoch, max_steps or math.inf)
    if total < optim.accumulate:
        raise LodaError(
            f"optim.accumulate={optim.accumulate} batches make one update, but the run has only {total}; "
            "lower it, or train longer"
        )
    kept = sorted({epoch for epoch in (*optim.keep_epochs, optim.epochs) if epoch * per_epoch <= total})
    found = [Milestone(f"epoch-{epoch}", epoch * per_epoch, epoch) for epoch in kept]
    if not found or found[-1].step != total:
        found.append(Milestone(f"step-{total}", int(total), round(total / per_epoch, 3)))
    return found


def horizon(rows: int, optim: OptimConfig, max_steps: int | None) -> int:
    """The step at which the learning rate reaches 0."""
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

    With several processes all of them call this, with the same arguments but for `journal`, `keep` and `bars`.

    Raises:
        LodaError: the loss became infinite or not a number; the message names the step and its rows.
    """
    marks = {mark.step: mark for mark in milestones(len(rows), optim, trainer.max_steps)}
    total, per_epoch = max(marks), steps_per_epoch(len(rows), optim.batch_size)
    accelerator = _accelerator(optim, trainer)
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    optimizer = ReferenceAdamW(loda.trainable_parameters(model).values(), optim)
    objective, optimizer = accelerator.prepare(Objective(model, optim.label_smoothing), optimizer)
    scheduler = LambdaLR(optimizer, schedule(optim.warmup_steps, horizon(len(rows), optim, trainer.max_steps)))
    if trainer.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if trainer.fast:
        make_fast(model)
    if trainer.compile:
        model.base_model.compile(dynamic=True)
    lay_out = pack if trainer.fast else collate
    if not is_main_process():
        torch.manual_seed(seed + process_index())  # or all processes would drop out alike
    objective.train()
    started, losses = time.monotonic(), []
    order = batches(trainer.order, [len(row.ids) for row in rows], optim.batch_size, seed, optim.epochs)
    progress = bars.bar("train", total, "step")
    for step, indices in zip(range(1, total + 1), order, strict=False):
        whole = [rows[i] for i in indices]
        share = lay_out(whole[process_index() :: process_count()] or [NO_ROW]).to(accelerator.device)
        lr = float(scheduler.get_last_lr()[0])
        with accelerator.accumulate(objective):
            loss = process_count() * objective(share, tokens=sum(row.counted for row in whole))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.detach())
        if step % trainer.log_every == 0 or step in marks:
            mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
            _check_finite(mean, step, indices)
            journal.log(step, loss=mean, lr=lr, epoch=step / per_epoch)
            progress.set_postfix(loss=f"{mean:.3f}")
            losses.clear()
        if step in marks:
            keep(marks[step])
        progress.update()
    progress.close()
    peak = torch.cuda.max_memory_allocated() if accelerator.device.type == "cuda" else None
    # DistributedDataParallel has to go before its process group; the other way round the two can wait for each other.
    del objective
    accelerator.free_memory()
    accelerator.end_training()
    return Training(total, mean, time.monotonic() - started, peak, process_count())


def _accelerator(optim: OptimConfig, trainer: TrainerConfig) -> Accelerator:
    """Device, precision, accumulation and processes; nothing is taken over from an earlier training or the launcher."""
    # accelerate keeps its state for the life of the process and refuses another precision or device without this.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=pick_device(trainer.device).type == "cpu",
        mixed_precision="bf16" if trainer.precision == "bf16" else "no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=optim.accumulate),
    )
    if accelerator.num_processes != process_count():
        raise LodaError(
            f"accelerate counts {accelerator.num_processes} processes, the environment says WORLD_SIZE="
            f"{process_count()}; start the run with plain python, torchrun or accelerate launch"
        )
    return accelerator


def _check_finite(loss: float, step: int, indices: Sequence[int]) -> None:
    if not math.isfinite(loss):
        raise LodaError(
            f"the loss is {loss} at step {step} (rows {', '.join(map(str, indices))}); "
            "lower optim.lr or set trainer.precision=fp32"
        )
