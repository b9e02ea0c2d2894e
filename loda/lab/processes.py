"""Rank and world size of a run over several processes.

    python -m scripts torchrun --nproc_per_node N train.py ...          GPUs, or CPUs with trainer.device=cpu
    accelerate launch --multi_gpu --num_processes N train.py ...        the same; with --cpu it starts one process only

All processes train, each on its share of every batch. Only the first writes into the run's folder, shows bars, decodes
and scores; the others leave after the training.
"""

import os

import torch

from loda.errors import LodaError
from loda.lab.config import Experiment


def process_index() -> int:
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    return process_index() == 0


def check_processes(experiment: Experiment) -> None:
    """Check that the processes of this launch can share the experiment.

    Raises:
        LodaError: a batch that does not divide evenly, or fewer GPUs than processes.
    """
    count, batch_size = process_count(), experiment.optim.batch_size
    if batch_size % count:
        raise LodaError(
            f"optim.batch_size={batch_size} does not divide by the {count} processes of this launch; "
            "it is the batch of all processes together: change one of the two"
        )
    local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if experiment.trainer.device != "cpu" and 0 < devices <= local:
        raise LodaError(
            f"process {local + 1} of this machine has no GPU to itself, there are {devices}; "
            "start one process per GPU, or set trainer.device=cpu"
        )
