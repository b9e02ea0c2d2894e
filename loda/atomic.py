"""The one door through which files are written: under a temporary name, flushed to the disk, then renamed.

So a file or folder that exists is complete, whatever interrupted its writing, a power cut included. What keeps a file
from being written, such as a full disk, ends in one sentence; what was there before stays as it was.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from loda.errors import LodaError

PARTIAL = ".partial"
"""How the temporary names end; they begin with a dot."""
REMEDIES = {
    errno.ENOSPC: "make space on the disk",
    errno.EDQUOT: "make space within your quota",
    errno.EROFS: "make the folder writable, or choose another",
    errno.EACCES: "make the folder writable, or choose another",
    errno.EPERM: "make the folder writable, or choose another",
    errno.ENOENT: "bring the folder back, it has vanished",
}


def write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file that then appears at `path`, complete or not at all.

    Raises:
        LodaError: it cannot be written.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
        os.close(descriptor)
        temporary = Path(name)
        try:
            fill(temporary)
            flush(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
            flush(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write into a new folder that then appears at `path` as a whole.

    Where another process was first, its folder stays: a name stands for one content.

    Raises:
        LodaError: it cannot be written.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL))
        try:
            fill(temporary)
            for part in (*temporary.rglob("*"), temporary):
                flush(part)
            temporary.chmod(0o755)
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def discard_folder(path: Path) -> None:
    """Delete a folder, if it is there, so that it vanishes as a whole whatever interrupts this.

    Raises:
        LodaError: it cannot be deleted.
    """
    if not path.is_dir():
        return
    with _told(path):
        doomed = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL))
        path.rename(doomed)
        shutil.rmtree(doomed)


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error
    except SafetensorError as error:
        raise LodaError(f"{path} could not be written ({error}); see that the disk has space for it") from error


def unwritable(path: Path, error: OSError) -> LodaError:
    """What to say when `path` cannot be written."""
    remedy = REMEDIES.get(error.errno or 0, "mend that")
    return LodaError(
        f"{path} could not be written ({error.strerror or error}); {remedy}, and repeat the command: what is complete "
        "was kept"
    )


def flush(path: Path) -> None:
    """Have what a file or folder holds written to the disk itself, so that a power cut cannot empty it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
