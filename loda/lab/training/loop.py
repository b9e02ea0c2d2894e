"""The training loop: the reference's order, loss, optimiser and schedule, on accelerate.

A step is one batch. An update follows every `optim.accumulate` batches, with the mean of their gradients; the learning
rate moves with every batch, as in LoRA's code.

Several processes share each batch of the run in one process. Every one knows the whole batch, so it divides its part
of the loss by the number of tokens of all; times the number of processes, because DistributedDataParallel takes the
mean of the gradients. So the number of processes changes nothing but dropout, whose noise each draws for itself.
(LoRA's code gives each process batches of its own: more rows to an update, in another order, with another schedule.)

After an update, every `trainer.save_minutes` and when the process is told to stop (`loda.lab.interrupt`), the state of
the training is saved; so it is before each adapter that is kept. A state whose losses or parameters are not finite is
not saved: the last good one stays.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

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
from loda.lab.interrupt import Interrupted, deferred, is_requested
from loda.lab.memory import advised
from loda.lab.processes import is_main_process, process_count, process_index
from loda.lab.progress import Bars
from loda.lab.training.checkpoints import Milestone, horizon, milestones
from loda.lab.training.examples import Batch, Row, collate
from loda.lab.training.loss import target_loss
from loda.lab.training.metrics_logger import Journal
from loda.lab.training.optimizer import ReferenceAdamW, schedule
from loda.lab.training.packing import make_fast, pack
from loda.lab.training.sampler import batches, steps_per_epoch
from loda.lab.training.state import State, generators, put_back, put_back_generators, tensors_of, torch_generators

MEMORY_REMEDY = (
    "halve optim.batch_size and double optim.accumulate, or set trainer.activation_checkpointing=true, "
    "trainer.fast=true or trainer.precision=bf16"
)
NO_ROW = Row(ids=[0], given=1)
"""Stands in where the last batch of an epoch has fewer rows than there are processes; no position of it counts."""


@dataclass(frozen=True)
class Training:
    """What a training did.

    Attributes:
        steps: batches.
        final_loss: mean loss of the batches that the journal's last line stands for.
        seconds: wall-clock time.
        peak_memory_bytes: most CUDA memory in use at once, on the first process; None without CUDA.
        processes: how many shared the work.
        resumed: how often the training was taken up again from a saved state.
    """

    steps: int
    final_loss: float
    seconds: float
    peak_memory_bytes: int | None
    processes: int
    resumed: int


class Loss(NamedTuple):
    """The loss of one batch, and of which."""

    step: int
    rows: Sequence[int]
    value: Tensor


class Objective(nn.Module):
    """The loss as a module: autocast and DistributedDataParallel act on the forward pass of what they wrap."""

    def __init__(self, model: PreTrainedModel, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch, tokens: int) -> Tensor:
        """See `target_loss`."""
        return target_loss(self.model, batch, self.label_smoothing, tokens)


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
    save: Callable[[State], None] = lambda state: None,
    state: State | None = None,
) -> Training:
    """Train the adapters of `model` in place and call `keep` at every milestone, `save` before it and now and then.

    With several processes all of them call this, with the same arguments but for `journal`, `keep`, `save` and `bars`.
    `state` is what an earlier call gave to `save`; the training goes on from there.

    Raises:
        LodaError: the loss became infinite or not a number; the message names the step and its rows.
        Interrupted: a signal asked to stop; the state is saved.
    """
    marks = {mark.step: mark for mark in milestones(len(rows), optim, trainer.max_steps)}
    total, per_epoch = max(marks), steps_per_epoch(len(rows), optim.batch_size)
    loop = _Loop(model, horizon(len(rows), optim, trainer.max_steps), seed, optim, trainer, state)
    order = batches(trainer.order, [len(row.ids) for row in rows], optim.batch_size, seed, optim.epochs)
    start, saved = loop.steps, time.monotonic()
    progress = bars.bar("train", total, "example", optim.batch_size)
    progress.update(start)
    if start in marks:
        keep(marks[start])
    with deferred():
        for step, indices in islice(zip(range(1, total + 1), order, strict=False), start, None):
            lr = loop.learning_rate
            with advised("a training step", MEMORY_REMEDY):
                loop.step(indices, [rows[i] for i in indices])
            if step % trainer.log_every == 0 or step in marks:
                journal.log(step, loss=loop.take_mean_loss(), lr=lr, epoch=step / per_epoch)
                progress.set_postfix(loss=f"{loop.mean_loss:.3f}")
            due, stops = _is_due(step, saved, loop.accelerator, optim, trainer)
            if due or step == total or (step in marks and step % optim.accumulate == 0):
                save(loop.state())
                saved = time.monotonic()
            if step in marks:
                keep(marks[step])
            progress.update()
            if stops:
                raise Interrupted("a signal")
    progress.close()
    return loop.end()


class _Loop:
    """A training under way: model, optimiser and schedule as accelerate wraps them, and how far it has come.

    Args:
        model: with adapters; trained in place.
        horizon: the step at which the learning rate reaches 0.
        seed: of the run.
        optim, trainer: its settings.
        state: where it goes on from; None at the beginning.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        horizon: int,
        seed: int,
        optim: OptimConfig,
        trainer: TrainerConfig,
        state: State | None,
    ) -> None:
        self.accelerator = _accelerator(optim, trainer)
        if self.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.accelerator.device)
        self.parameters = loda.trainable_parameters(model)
        self.adamw = ReferenceAdamW(self.parameters.values(), optim)
        self.objective, self.optimizer = self.accelerator.prepare(Objective(model, optim.label_smoothing), self.adamw)
        self.steps, self.mean_loss, self.losses = 0, math.nan, list[Loss]()
        self.earlier, self.resumed = 0.0, 0
        if state is not None:
            self._take_up(state)
        factors = schedule(optim.warmup_steps, horizon)
        self.scheduler = LambdaLR(self.optimizer, factors, last_epoch=self.steps - 1)
        if trainer.activation_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if trainer.fast:
            make_fast(model)
        if trainer.compile:
            model.base_model.compile(dynamic=True)
        self.lay_out = pack if trainer.fast else collate
        if not is_main_process():
            torch.manual_seed(seed + process_index())  # or all processes would drop out alike
        if state is not None:
            put_back_generators(state, self.accelerator.device)
        self.objective.train()
        self.started = time.monotonic()

    @property
    def learning_rate(self) -> float:
        """That of the next batch."""
        return float(self.scheduler.get_last_lr()[0])

    def step(self, indices: Sequence[int], rows: list[Row]) -> None:
        """Train on one batch: `rows`, whose places in the data are `indices`."""
        share = self.lay_out(rows[process_index() :: process_count()] or [NO_ROW]).to(self.accelerator.device)
        with self.accelerator.accumulate(self.objective):
            loss = process_count() * self.objective(share, tokens=sum(row.counted for row in rows))
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.scheduler.step()
        self.steps += 1
        self.losses.append(Loss(self.steps, indices, loss.detach()))

    def take_mean_loss(self) -> float:
        """The mean loss of the batches since the last call, over all processes.

        Raises:
            LodaError: it is not finite.
        """
        mean = self.accelerator.reduce(torch.stack([loss.value for loss in self.losses]).mean(), "mean").item()
        if not math.isfinite(mean):
            _check_finite(self.losses, self.parameters, self.steps)
        self.mean_loss = mean
        self.losses.clear()
        return self.mean_loss

    def state(self) -> State:
        """From where the training can go on.

        Raises:
            LodaError: a loss or a parameter is not finite.
        """
        _check_finite(self.losses, self.parameters, self.steps)
        tensors = tensors_of(self.parameters, self.adamw, [loss.value for loss in self.losses])
        for name, row in torch_generators(self.accelerator.device).items():
            gathered = self.accelerator.gather(row.to(self.accelerator.device)).cpu() if process_count() > 1 else row
            tensors[name] = gathered
        known = None if math.isnan(self.mean_loss) else self.mean_loss
        return State(self.steps, self.adamw.updates, self._seconds(), known, self.resumed, generators(), tensors)

    def end(self) -> Training:
        """Let go of the processes and the device."""
        peak = torch.cuda.max_memory_allocated() if self.accelerator.device.type == "cuda" else None
        # DistributedDataParallel goes before its process group; the other way round they can wait for each other.
        del self.objective
        self.accelerator.free_memory()
        self.accelerator.end_training()
        return Training(self.steps, self.mean_loss, self._seconds(), peak, process_count(), self.resumed)

    def _take_up(self, state: State) -> None:
        put_back(state, self.parameters, self.adamw)
        self.steps, self.earlier, self.resumed = state.step, state.seconds, state.resumed + 1
        self.mean_loss = math.nan if state.loss is None else state.loss
        self.losses = [Loss(state.step, [], loss.to(self.accelerator.device)) for loss in state.losses]

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.started


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


def _is_due(
    step: int, saved: float, accelerator: Accelerator, optim: OptimConfig, trainer: TrainerConfig
) -> tuple[bool, bool]:
    """Whether the state is to be saved after this batch, and whether to stop then.

    Only after an update, because gradients are no part of a state. Several processes agree on it where the journal is
    written.
    """
    if step % optim.accumulate:
        return False, False
    wishes = [is_requested() or time.monotonic() - saved >= 60 * trainer.save_minutes, is_requested()]
    if process_count() > 1:
        if step % trainer.log_every:
            return False, False
        wishes = accelerator.reduce(torch.tensor(wishes, dtype=torch.float32, device=accelerator.device)).tolist()
    return bool(wishes[0]), bool(wishes[1])


def _check_finite(losses: Sequence[Loss], parameters: Mapping[str, nn.Parameter], step: int) -> None:
    """Check the losses since the journal's last line, and what was trained."""
    remedy = "lower optim.lr or set trainer.precision=fp32; repeated, the command goes on from the last good state"
    for loss in losses:
        value = loss.value.item()
        if not math.isfinite(value):
            rows = ", ".join(map(str, loss.rows))
            raise LodaError(f"the loss is {value} at step {loss.step} (rows {rows}); {remedy}")
    for name, parameter in parameters.items():
        if not parameter.isfinite().all():
            raise LodaError(f"{name} is not finite after step {step}; {remedy}")
