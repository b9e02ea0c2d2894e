"""The moments of a training whose adapters are kept and scored, and the length of its learning-rate schedule."""

import math
from dataclasses import dataclass

from loda.errors import LodaError
from loda.lab.config import OptimConfig
from loda.lab.training.sampler import steps_per_epoch


@dataclass(frozen=True)
class Checkpoint:
    """An adapter that is kept: its name, and the batches and epochs seen by then."""

    name: str
    step: int
    epoch: float


UNTRAINED = Checkpoint("untrained", 0, 0.0)


def checkpoints(num_examples: int, optim: OptimConfig, max_steps: int | None) -> list[Checkpoint]:
    """The checkpoints of a training: those of `checkpoint_epochs` that it reaches, and the last.

    A training that `max_steps` ends before its last epoch keeps its end as "step-N".

    Raises:
        LodaError: the training ends before its first update.
    """
    per_epoch = steps_per_epoch(num_examples, optim.batch_size)
    total = min(optim.epochs * per_epoch, max_steps or math.inf)
    if total < optim.gradient_accumulation_steps:
        raise LodaError(
            f"optim.gradient_accumulation_steps={optim.gradient_accumulation_steps} batches make one update, but the "
            f"run has only {total}; lower it, or train longer"
        )
    kept = sorted({epoch for epoch in (*optim.checkpoint_epochs, optim.epochs) if epoch * per_epoch <= total})
    found = [Checkpoint(f"epoch-{epoch}", epoch * per_epoch, epoch) for epoch in kept]
    if not found or found[-1].step != total:
        found.append(Checkpoint(f"step-{total}", int(total), round(total / per_epoch, 3)))
    return found


def total_steps(num_examples: int, optim: OptimConfig, max_steps: int | None) -> int:
    """The step at which the learning rate reaches 0."""
    return int(min(optim.lr_schedule_epochs * steps_per_epoch(num_examples, optim.batch_size), max_steps or math.inf))
