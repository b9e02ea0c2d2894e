"""The training loop: the reference's order, loss, optimiser and schedule, on accelerate.

A step is one batch. An update follows every `optim.gradient_accumulation_steps` batches, with the mean of their
gradients; the learning rate moves with every batch, as in LoRA's code.

Several processes share each batch of the run on one process. Every process knows the whole batch and divides its part
of the loss by the number of targets of all, times the number of processes, because DistributedDataParallel takes the
mean of the gradients. So the number of processes changes nothing but dropout, whose noise each draws for itself.
(LoRA's code gives each process batches of its own: more examples to an update, another order, another schedule.)

The loop saves its state between updates: at intervals of `trainer.state_interval_minutes`, on a request to stop, before
it saves an adapter, and on an error. If losses or parameters are not finite, it saves
nothing, so the last good state stays.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import PreTrainedModel

import loda
from loda.errors import LodaError
from loda.lab.config import OptimConfig, TrainerConfig
from loda.lab.device import explain_oom, pick_device
from loda.lab.interrupt import Interrupted, deferred, is_requested
from loda.lab.processes import is_main_process, process_count, process_index
from loda.lab.progress import progress_bar
from loda.lab.training.checkpoints import Checkpoint, checkpoints, total_steps
from loda.lab.training.examples import Batch, Example, collate
from loda.lab.training.loss import target_loss
from loda.lab.training.metrics_logger import MetricsLogger
from loda.lab.training.optimizer import ReferenceAdamW, linear_schedule
from loda.lab.training.packing import pack, packed
from loda.lab.training.sampler import batches, steps_per_epoch
from loda.lab.training.state import (
    State,
    collect_tensors,
    restore_generators,
    restore_tensors,
    torch_generators,
)

MEMORY_REMEDY = (
    "halve optim.batch_size and double optim.gradient_accumulation_steps, or set trainer.activation_checkpointing=true "
    "or trainer.precision=bf16"
)
EMPTY = Example(ids=[0], prompt_length=1)
"""For a process that has no example in the last batch of an epoch; no position of it counts."""


@dataclass(frozen=True)
class Summary:
    """What a training did.

    Attributes:
        steps: batches.
        final_loss: mean loss of the batches that the last line of metrics.jsonl stands for.
        seconds: wall-clock time.
        peak_memory_bytes: most CUDA memory in use at once, on the first process; None without CUDA.
        processes: how many shared the work.
        resumed: how often the training was resumed from a saved state.
    """

    steps: int
    final_loss: float
    seconds: float
    peak_memory_bytes: int | None
    processes: int
    resumed: int


class Loss(NamedTuple):
    """The loss of one batch, and of which examples."""

    step: int
    indices: Sequence[int]
    value: Tensor


class Position(NamedTuple):
    """What a state holds beside parameters and moments, which only an update changes."""

    step: int
    updates: int
    mean_loss: float
    losses: list[Loss]
    generators: dict[str, Tensor]


class Objective(nn.Module):
    """The loss as a module: autocast and DistributedDataParallel act on the forward pass of what they wrap."""

    def __init__(self, model: PreTrainedModel, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch, num_targets: int) -> Tensor:
        return target_loss(self.model, batch, self.label_smoothing, num_targets)


@contextmanager
def prepared(model: PreTrainedModel, trainer: TrainerConfig, packing: bool) -> Iterator[None]:
    """The model as `trainer` wants it for training; in evaluation mode and as it was afterwards."""
    with ExitStack() as stack:
        stack.callback(model.eval)
        if packing:
            stack.enter_context(packed(model))
        if trainer.activation_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            stack.callback(model.gradient_checkpointing_disable)
        if trainer.compile:
            model.base_model.compile(dynamic=True)
            stack.callback(setattr, model.base_model, "_compiled_call_impl", None)
        yield


class Loop:
    """A training: model, optimiser and schedule as accelerate wraps them, and how far they have come.

    With several processes all of them build and run the same loop.

    Args:
        model: with adapters, inside `prepared`; trained in place.
        examples: the training split.
        seed: of the run.
        optim, trainer: its settings.
        packing: whether batches are packed.
        state: where it continues; None at the beginning.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[Example],
        seed: int,
        optim: OptimConfig,
        trainer: TrainerConfig,
        packing: bool = False,
        state: State | None = None,
    ) -> None:
        self.examples, self.seed, self.optim, self.trainer = examples, seed, optim, trainer
        self.checkpoints = {c.step: c for c in checkpoints(len(examples), optim, trainer.max_steps)}
        self.collate = pack if packing else collate
        self.accelerator = _accelerator(optim, trainer)
        self.parameters = loda.trainable_parameters(model)
        self.adamw = ReferenceAdamW(self.parameters.values(), optim)
        self.objective, self.optimizer = self.accelerator.prepare(Objective(model, optim.label_smoothing), self.adamw)
        self.steps, self.mean_loss, self.losses = 0, math.nan, list[Loss]()
        self.earlier_seconds, self.resumed = 0.0, 0
        if state is not None:
            self._restore(state)
        self.factors = linear_schedule(optim.warmup_steps, total_steps(len(examples), optim, trainer.max_steps))
        self.scheduler = LambdaLR(self.optimizer, self.factors, last_epoch=self.steps - 1)
        if not is_main_process():
            torch.manual_seed(seed + process_index())  # or all processes would drop out alike
        if state is not None:
            restore_generators(state, self.accelerator.device)
        self.objective.train()
        self.started = time.monotonic()
        self.position = self._position()

    def run(self, logger: MetricsLogger, keep: Callable[[Checkpoint], None], save: Callable[[State], None]) -> Summary:
        """Train to the end: `keep` is called at every checkpoint, `save` before it and now and then.

        Raises:
            LodaError: the loss became infinite or not a number; the message names the step and its examples.
            Interrupted: a signal asked to stop; the state is saved.
        """
        total = max(self.checkpoints)
        order = batches(len(self.examples), self.optim.batch_size, self.seed, self.optim.epochs)
        bar, saved = progress_bar("train", total, "example", self.optim.batch_size), time.monotonic()
        bar.update(self.steps)
        with self._saving_at_an_error(save):
            self._log(logger, bar)  # the line that an error kept back
            if self.steps in self.checkpoints:
                keep(self.checkpoints[self.steps])
            with deferred():
                for indices in islice(order, self.steps, total):
                    with explain_oom("a training step", MEMORY_REMEDY):
                        self._step(indices)
                    self._log(logger, bar)
                    checkpoint = self.checkpoints.get(self.steps)
                    due, stop = self._is_due(saved)
                    if due or self.steps == total or (checkpoint and self._is_after_update):
                        save(self.state())
                        saved = time.monotonic()
                    if checkpoint:
                        keep(checkpoint)
                    bar.update()
                    if stop:
                        self.accelerator.wait_for_everyone()  # a launcher ends all when the first has ended
                        raise Interrupted("a signal")
        bar.close()
        return self._end()

    def state(self) -> State:
        """From where the training can continue: the last update.

        Raises:
            LodaError: a loss or a parameter is not finite, or an update was broken off.
        """
        step, updates, mean_loss, losses, generators = self.position
        if self.adamw.updates != updates:
            raise LodaError(f"the update after step {step} was broken off; the same command continues from before it")
        self._check_finite()
        tensors = collect_tensors(self.parameters, self.adamw)
        tensors["losses"] = torch.stack([loss.value for loss in losses]).cpu() if losses else torch.empty(0)
        for name, row in generators.items():
            gathered = self.accelerator.gather(row.to(self.accelerator.device)).cpu() if process_count() > 1 else row
            tensors[name] = gathered
        known = None if math.isnan(mean_loss) else mean_loss
        return State(step, updates, self._seconds(), known, self.resumed, tensors)

    def _position(self) -> Position:
        generators = torch_generators(self.accelerator.device)
        return Position(self.steps, self.adamw.updates, self.mean_loss, list(self.losses), generators)

    @contextmanager
    def _saving_at_an_error(self, save: Callable[[State], None]) -> Iterator[None]:
        """Save the last update if an error ends the training of one process; of several, the others may be gone."""
        try:
            yield
        except Interrupted:
            raise
        except BaseException:
            if process_count() == 1 and self.position.step > 0:
                with suppress(LodaError, RuntimeError):  # the last good state stays, and the error says what was wrong
                    save(self.state())
            raise

    def _step(self, indices: Sequence[int]) -> None:
        """Train on one batch, of which this process takes its share."""
        batch = [self.examples[i] for i in indices]
        share = self.collate(batch[process_index() :: process_count()] or [EMPTY]).to(self.accelerator.device)
        with self.accelerator.accumulate(self.objective):
            loss = process_count() * self.objective(share, num_targets=sum(example.num_targets for example in batch))
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.optim.max_grad_norm is not None:
                self.accelerator.clip_grad_norm_(self.parameters.values(), self.optim.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.scheduler.step()
        self.steps += 1
        self.losses.append(Loss(self.steps, indices, loss.detach()))
        if self._is_after_update or self.steps == max(self.checkpoints):
            self.position = self._position()

    def _log(self, logger: MetricsLogger, bar: "tqdm[Any]") -> None:
        """Log the mean loss of the batches since the last line, over all processes, where a line is due."""
        if not self.losses or (self.steps % self.trainer.log_every and self.steps not in self.checkpoints):
            return
        mean = self.accelerator.reduce(torch.stack([loss.value for loss in self.losses]).mean(), "mean").item()
        if not math.isfinite(mean):
            self._check_finite()
        epoch = self.steps / steps_per_epoch(len(self.examples), self.optim.batch_size)
        logger.log(self.steps, loss=mean, lr=self.optim.lr * self.factors(self.steps - 1), epoch=epoch)
        bar.set_postfix(loss=f"{mean:.3f}")
        self.mean_loss = mean
        self.losses.clear()
        if self.position.step == self.steps:
            self.position = self._position()

    @property
    def _is_after_update(self) -> bool:
        return self.steps % self.optim.gradient_accumulation_steps == 0

    def _is_due(self, saved: float) -> tuple[bool, bool]:
        """Whether to save the state after this batch, and whether to stop then.

        Only after an update, because gradients are not part of a state. Several processes agree on it when they log.
        """
        if not self._is_after_update:
            return False, False
        waited = time.monotonic() - saved >= 60 * self.trainer.state_interval_minutes
        wishes = [is_requested() or waited, is_requested()]
        if process_count() > 1:
            if self.steps % self.trainer.log_every:
                return False, False
            device = self.accelerator.device
            wishes = self.accelerator.reduce(torch.tensor(wishes, dtype=torch.float32, device=device)).tolist()
        return bool(wishes[0]), bool(wishes[1])

    def _check_finite(self) -> None:
        remedy = "lower optim.lr or set trainer.precision=fp32; the same command continues from the last good state"
        for loss in self.losses:
            value = loss.value.item()
            if not math.isfinite(value):
                examples = ", ".join(map(str, loss.indices))
                raise LodaError(f"the loss is {value} at step {loss.step} (examples {examples}); {remedy}")
        for name, parameter in self.parameters.items():
            if not parameter.isfinite().all():
                raise LodaError(f"{name} is not finite after step {self.steps}; {remedy}")

    def _restore(self, state: State) -> None:
        restore_tensors(state, self.parameters, self.adamw)
        self.steps, self.earlier_seconds, self.resumed = state.step, state.seconds, state.resumed + 1
        self.mean_loss = math.nan if state.loss is None else state.loss
        self.losses = [Loss(state.step, [], loss.to(self.accelerator.device)) for loss in state.tensors["losses"]]

    def _seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.started

    def _end(self) -> Summary:
        """Shut accelerate down."""
        peak = torch.cuda.max_memory_allocated() if self.accelerator.device.type == "cuda" else None
        if process_count() > 1 or peak is not None:  # a collection of garbage takes a third of a second
            # DistributedDataParallel goes before its process group; the other way round they can wait for each other.
            del self.objective
            self.accelerator.free_memory()
        self.accelerator.end_training()
        return Summary(self.steps, self.mean_loss, self._seconds(), peak, process_count(), self.resumed)


def _accelerator(optim: OptimConfig, trainer: TrainerConfig) -> Accelerator:
    """Device, precision, accumulation and processes; nothing is left of an earlier training or the launcher."""
    # accelerate keeps its state for the life of the process and refuses another precision or device without this.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()  # a training that died within an epoch leaves its data loader there
    accelerator = Accelerator(
        cpu=pick_device(trainer.device).type == "cpu",
        mixed_precision="bf16" if trainer.precision == "bf16" else "no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=optim.gradient_accumulation_steps),
    )
    if accelerator.num_processes != process_count():
        raise LodaError(
            f"accelerate counts {accelerator.num_processes} processes, the environment says WORLD_SIZE="
            f"{process_count()}; start the run with plain python, torchrun or accelerate launch"
        )
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    return accelerator
