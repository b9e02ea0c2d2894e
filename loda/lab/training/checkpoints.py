"""The moments of a training whose adapters are kept, and where its schedule ends."""

import math
from dataclasses import dataclass

from loda.errors import LodaError
from loda.lab.config import Experiment, OptimConfig
from loda.lab.training.sampler import steps_per_epoch


@dataclass(frozen=True)
class Milestone:
    """A moment whose adapter is kept: its label and the number of batches seen by then."""

    label: str
    step: int
    epoch: float


UNTRAINED = Milestone("untrained", 0, 0.0)


def checkpoints(experiment: Experiment, rows: int) -> list[Milestone]:
    """The checkpoints of a finished run; a run without adapter has the untrained model alone."""
    if not experiment.trains:
        return [UNTRAINED]
    return milestones(rows, experiment.optim, experiment.trainer.max_steps)


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
