"""Signals that ask a run to stop: Slurm's pre-emption, a time limit, Ctrl-C.

SIGTERM, SIGUSR1 and SIGINT all mean: save what there is, stop, and end the process with `REQUEUE`; the same command
continues from there. (`sbatch --signal=USR1@120 --requeue`, with a script that calls `scontrol requeue $SLURM_JOB_ID`
when the code is 75.) Every stage appears complete or not at all, so stopping is safe at any moment; only the training
has more to save first.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REQUEUE = 75
"""Exit code, EX_TEMPFAIL of sysexits.h: nothing is wrong, run the command again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop, and has saved what there was to save."""


_deferred = False
_requested: signal.Signals | None = None


@contextmanager
def listening() -> Iterator[None]:
    """Turn the signals into `Interrupted`. Outside the main thread, which gets no signals, nothing changes."""
    global _requested
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _receive) for number in SIGNALS}
    _requested = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requested = None


@contextmanager
def deferred() -> Iterator[None]:
    """Hold signals back until the end of this block; `is_requested` tells that one waits."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    if _requested is not None:
        raise Interrupted(_requested.name)


def is_requested() -> bool:
    return _requested is not None


def _receive(number: int, frame: FrameType | None) -> None:
    global _requested
    _requested = signal.Signals(number)
    if not _deferred:
        raise Interrupted(_requested.name)
