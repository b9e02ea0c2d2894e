"""Signals that ask a run to stop: a batch system's pre-emption or time limit, a closed terminal, Ctrl-C.

All of `SIGNALS` mean: save what there is, stop, and end the process with `REQUEUE`; the same command continues from
there. (`sbatch --signal=USR1@120 --requeue`, with a script that calls `scontrol requeue $SLURM_JOB_ID` when the code is
75.) Every stage appears complete or not at all, so stopping is safe at any moment; only the training has more to save
first. A signal that is ignored, as SIGHUP under nohup, or that somebody else handles, as submitit does, is left alone.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

REQUEUE = 75
"""Exit code, EX_TEMPFAIL of sysexits.h: nothing is wrong, run the command again."""
SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),  # Slurm, LSF and Grid Engine before a limit
)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop, and has saved what there was to save."""


_deferred = False
_requested: signal.Signals | None = None


def hold() -> None:
    """Hold the signals back until `listening` begins: for the seconds in which a command imports its modules."""
    global _deferred
    _deferred = True
    _install()


@contextmanager
def listening() -> Iterator[None]:
    """Turn the signals into `Interrupted`. Outside the main thread, which gets no signals, nothing changes."""
    global _deferred, _requested
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, held = _install(), _deferred
    try:
        _release()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _deferred = held
        if _receive not in before.values():  # within another block, a signal that an error overtook still counts
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
    _release()


def is_requested() -> bool:
    return _requested is not None


def _install() -> dict[signal.Signals, Any]:
    """Handle the signals that nobody else handles; returns their handlers so far."""
    free = (signal.SIG_DFL, signal.default_int_handler, _receive)
    return {number: signal.signal(number, _receive) for number in SIGNALS if signal.getsignal(number) in free}


def _release() -> None:
    """Raise `Interrupted` for a signal that was held back."""
    global _deferred
    _deferred = False
    if _requested is not None:
        raise Interrupted(_requested.name)


def _receive(number: int, frame: FrameType | None) -> None:
    global _requested
    _requested = signal.Signals(number)
    if not _deferred:
        raise Interrupted(_requested.name)
