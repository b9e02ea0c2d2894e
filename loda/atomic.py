"""Atomic writes: temporary file or folder, fsync, rename. What exists under its own name is complete.

The directory entry is flushed too, so a power cut loses nothing that was reported as written. An operating-system error
becomes a LodaError, which keeps its words and adds the path.
"""

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from loda.errors import LodaError

PARTIAL = ".partial"
"""Suffix of temporary names, which begin with a dot."""


def write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Write `path` atomically: `fill` writes a temporary file, which then replaces `path`.

    Where `path` is a link, its target is replaced. A pipe or a device is written to as it is.
    """
    with wrap_os_errors(path):
        if path.exists() and not path.is_file():
            fill(path)
            return
        path = path.resolve()
        make_folder(path.parent)
        temporary = _beside(path)
        temporary.touch(exist_ok=False)
        try:
            fill(temporary)
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def check_writable(path: Path) -> None:
    """Raise LodaError unless the file `path` can be written, before the work whose result it will hold."""
    with wrap_os_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.is_file() or not path.exists():
            folder = path.resolve().parent
            make_folder(folder)
            tempfile.TemporaryFile(dir=folder).close()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Write the folder `path` atomically: `fill` fills a temporary folder, which is then renamed.

    If another process has made `path` meanwhile, that folder stays, because a name stands for one content.
    """
    with wrap_os_errors(path):
        make_folder(path.parent)
        temporary = _beside(path)
        temporary.mkdir()
        try:
            fill(temporary)
            for part in (*temporary.rglob("*"), temporary):
                flush(part)
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def discard_folder(path: Path) -> None:
    """Delete a folder if it exists. A rename makes it vanish as a whole, whatever interrupts the deletion."""
    if not path.is_dir():
        return
    with wrap_os_errors(path):
        aside = _beside(path)
        path.rename(aside)
        shutil.rmtree(aside)


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits; LodaError if it cannot be read."""
    with wrap_os_errors(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def wrap_os_errors(path: Path, verb: str = "write") -> Iterator[None]:
    """Turn the operating system's errors into a LodaError that names `path`; of a folder in use, the file within."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        if verb == "use":
            path = getattr(error, "filename", None) or path
        raise LodaError(
            f"could not {verb} {path}: {reason}; fix that and run the same command again, finished stages are kept"
        ) from error


def make_folder(path: Path) -> None:
    """Create `path` and its parents, and flush the entries of those that are new."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush(folder.parent)


def _beside(path: Path) -> Path:
    """A new temporary name in the same folder. What is made there follows the umask, unlike files of `tempfile`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")


def flush(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
