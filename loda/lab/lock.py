"""One process works on a run at a time, on one machine or on several that share a folder.

The lock is the operating system's (flock), so it ends with the process that holds it, however that dies. `running.json`
beside it is for people.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from loda.atomic import PARTIAL, make_folder, wrap_os_errors, write_text
from loda.errors import LodaError
from loda.settings import load, read_json, settings


class LockedError(LodaError):
    """Another process is working on the run."""


@settings
class LockOwner:
    """Who is working on a run, and since when."""

    host: str
    process: int
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


@contextmanager
def lock_run(path: Path, wait: bool) -> Iterator[None]:
    """Work on the run in the folder `path` alone.

    Raises:
        LockedError: another process does, and `wait` is false. The message names it.
        LodaError: the folder cannot be written to.
    """
    # Not filelock's stand-in where the system has no locks: that one would outlive a killed process.
    lock = FileLock(path / "lock", fallback_to_soft=False)
    with wrap_os_errors(path):
        make_folder(path)
        try:
            lock.acquire(timeout=1)  # longer than the moment for which `lock_owner` takes it
        except Timeout as error:
            message = f"{path.name} is being worked on by {lock_owner(path) or 'another process'}"
            if not wait:
                raise LockedError(f"{message}; let that finish, or stop it") from error
            print(f"{message}; waiting for it")
            lock.acquire()
    note = path / "running.json"
    try:
        _clear_away(path)
        owner = {"host": socket.gethostname(), "process": os.getpid()}
        write_text(note, json.dumps({**owner, "since": datetime.now(UTC).isoformat(" ", "seconds")}) + "\n")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def lock_owner(path: Path) -> LockOwner | None:
    """Who is working on the run in `path`; None if nobody is, or has only just begun or ended.

    Raises:
        LodaError: the lock cannot be opened, so nobody can tell.
    """
    if not (path / "lock").exists():
        return None
    lock = FileLock(path / "lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            return load(LockOwner, read_json(path / "running.json"))
        except LodaError:  # it is just being written or deleted
            return None
    except OSError as error:
        raise LodaError(f"cannot tell whether {path.name} is being worked on: {error}") from error
    lock.release()
    return None


def _clear_away(path: Path) -> None:
    """Delete what a killed process was writing."""
    for leftover in sorted(path.rglob(f".*{PARTIAL}")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
