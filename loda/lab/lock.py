"""Who is working on a run: one process at a time, on one machine or on several that share a folder.

The lock is one of the operating system's (flock), so that it ends with the process that holds it, however that dies;
nobody has to judge whether an old lock file still means something. `running.json` beside it is for people.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from loda.atomic import PARTIAL, unwritable
from loda.errors import LodaError
from loda.lab.files import write_json
from loda.lab.run import RunDir
from loda.sealed import read_json

_held: dict[Path, tuple[int, int]] = {}
"""The locks that this process holds, and which files they are."""


class HeldError(LodaError):
    """Another process is working on the run."""


@dataclass(frozen=True)
class Holder:
    """Who is working on a run, and since when."""

    host: str
    process: int
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


@contextmanager
def hold(run: RunDir, wait: bool) -> Iterator[None]:
    """Work on `run` alone.

    Args:
        run: the folder of a run.
        wait: whether to wait for another process that is working on it.

    Raises:
        HeldError: another process is, and `wait` is false. The message names it.
        LodaError: the folder cannot be written to.
    """
    # Not filelock's stand-in where the system has no locks: that one would outlive a killed process.
    lock = FileLock(run.lock, fallback_to_soft=False)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=1)  # a look at who holds it, as `holder` takes, is shorter
    except Timeout as error:
        message = f"{run.name} is being worked on by {holder(run) or 'another process'}"
        if not wait:
            raise HeldError(f"{message}; let that finish, or stop it") from error
        print(f"{message}; waiting for it")
        lock.acquire()
    except OSError as error:
        raise unwritable(run.path, error) from error
    try:
        _held[run.lock] = _identity(run.lock)
        _clear_away(run)
        write_json(run.running, Holder(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(" ", "seconds")))
        yield
    finally:
        mine = _held.pop(run.lock, None)
        with suppress(OSError):  # where the folder has vanished, or is another's by now, so is the note
            if _identity(run.lock) == mine:
                run.running.unlink(missing_ok=True)
        lock.release()


def check_held(run: RunDir) -> None:
    """Check that the folder is still there and still this process's own, before more is written into it.

    Without this a folder that was deleted or unmounted would come back with a part of its files.

    Raises:
        LodaError: it has vanished.
    """
    try:
        found = _identity(run.lock)
    except OSError:
        found = None
    if found is None or found != _held.get(run.lock):
        raise LodaError(
            f"{run.path} has vanished while it was being worked on; bring it back, or repeat the command to begin anew"
        )


def _identity(path: Path) -> tuple[int, int]:
    """Which file lies there: a folder that was deleted and made again has another lock."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _clear_away(run: RunDir) -> None:
    """Delete what a killed process was writing (see `loda.atomic`)."""
    for path in sorted(run.path.rglob(f".*{PARTIAL}")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def holder(run: RunDir) -> Holder | None:
    """Who is working on `run`; None if nobody is, or has only just begun or ended."""
    if not run.lock.exists() or _is_free(run):
        return None
    try:
        return Holder(**read_json(run.running))
    except FileNotFoundError:
        return None


def _is_free(run: RunDir) -> bool:
    lock = FileLock(run.lock, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError:  # a folder that cannot be written, in which nobody works
        return True
    lock.release()
    return True
