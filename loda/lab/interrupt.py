"""Being told to stop: by Slurm's pre-emption, by a time limit, by Ctrl-C.

SIGTERM, SIGUSR1 and SIGINT all mean: save what there is, stop, and let the process end with `REQUEUE`, so that whoever
started it starts the same command again, which goes on from there. (`sbatch --signal=USR1@120 --requeue`, with a script
that calls `scontrol requeue $SLURM_JOB_ID` when the code is 75.) Everything that is written appears complete or not at
all, so stopping is safe at any moment; only the training has more to save first.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REQUEUE = 75
"""Exit code, EX_TEMPFAIL of sysexits.h: nothing is wrong, repeat the command."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """The process was told to stop, and what there was to save is saved."""


_deferred = False
_requested: signal.Signals | None = None


@contextmanager
def listening() -> Iterator[None]:
    """Let the signals raise `Interrupted`; outside the main thread, where Python receives none, nothing changes."""
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
    """Let the signals wait for the next `stop_if_requested`, or for the end of this."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    stop_if_requested()


def is_requested() -> bool:
    """Whether a signal waits."""
    return _requested is not None


def stop_if_requested() -> None:
    """Raise `Interrupted` if a signal waits."""
    if _requested is not None:
        raise Interrupted(_requested.name)


def _receive(number: int, frame: FrameType | None) -> None:
    global _requested
    _requested = signal.Signals(number)
    if not _deferred:
        raise Interrupted(_requested.name)
