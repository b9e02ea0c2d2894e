"""Who is working on a run: one process at a time, on one machine or on several that share a folder.

The lock is one of the operating system's (flock), so that it ends with the process that holds it, however that dies;
nobody has to judge whether an old lock file still means something. `running.json` beside it is for people.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from filelock import FileLock, Timeout

from loda.errors import LodaError
from loda.files import unwritable
from loda.lab.files import read_json, write_json
from loda.lab.paths import RunDir


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
    lock = FileLock(run.lock)
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
        _clear_away(run)
        write_json(run.running, Holder(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(" ", "seconds")))
        yield
    finally:
        run.running.unlink(missing_ok=True)
        lock.release()


def check_held(run: RunDir) -> None:
    """Check that the folder is still there, before more is written into it.

    Without this a folder that was deleted or unmounted would come back with a part of its files.

    Raises:
        LodaError: it has vanished.
    """
    if not run.lock.exists():
        raise LodaError(
            f"{run.path} has vanished while it was being worked on; bring it back, or repeat the command to begin anew"
        )


def _clear_away(run: RunDir) -> None:
    """Delete what a killed process was writing; its names begin with a dot (see `loda.files`)."""
    for path in sorted(run.path.rglob(".*")):
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
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True
