"""Running out of memory, in a sentence that says what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from loda.errors import LodaError

CPU_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")
"""torch has no class of its own for this on a CPU."""


@contextmanager
def advised(doing: str, remedy: str) -> Iterator[None]:
    """Raise LodaError where `doing` runs out of memory.

    Args:
        doing: what needed the memory, such as "decoding".
        remedy: which settings to lower.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _told(doing, remedy, error) from error
    except RuntimeError as error:
        if not any(message in str(error) for message in CPU_MESSAGES):
            raise
        raise _told(doing, remedy, error) from error


def _told(doing: str, remedy: str, error: BaseException) -> LodaError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return LodaError(
        f"{doing} ran out of memory ({first}); {remedy}, and repeat the command: what is complete was kept"
    )
