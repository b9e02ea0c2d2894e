"""The device of a run, its CPU threads, and errors that say what to do when memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from loda.errors import LodaError
from loda.lab.config import TrainerConfig

CPU_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")
"""torch has no error class for this on a CPU."""
DEFAULT_THREADS = torch.get_num_threads()


def pick_device(device: str) -> torch.device:
    """The device that `trainer.device` means on this machine.

    Raises:
        LodaError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise LodaError("trainer.device=cuda, but there is no CUDA device; use trainer.device=auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def set_threads(trainer: TrainerConfig) -> None:
    """Set the CPU threads of a run, whatever an earlier one in this process had."""
    torch.set_num_threads(trainer.threads or DEFAULT_THREADS)


@contextmanager
def explain_oom(doing: str, remedy: str) -> Iterator[None]:
    """Raise LodaError if `doing` runs out of memory; `remedy` says which settings to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        is_oom = type(error) is not RuntimeError or any(message in str(error) for message in CPU_MESSAGES)
        if not is_oom:
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise LodaError(f"{doing} ran out of memory ({first}); {remedy}, then run the same command again") from error
