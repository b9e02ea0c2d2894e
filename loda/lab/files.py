"""The one way files get into the outputs folder, under a temporary name, flushed to disk, then renamed; and out again.

So a file or folder that exists is complete, whatever interrupted its writing.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from loda.errors import LodaError


def write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file that then appears at `path`, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        fill(temporary)
        _flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        _flush(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; dataclasses become objects, NaN is refused."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    write_text(path, json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        LodaError: not JSON; the name of the file and the remedy.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LodaError(f"{path} is damaged ({error}); delete it and run the same command again") from error


def last_json_line(path: Path) -> Any:
    """The last whole line of a file that another process may be writing; None if there is none yet."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return json.loads(lines[-1]) if lines else None


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write into a new folder that then appears at `path` as a whole.

    Where another process was first, its folder stays: a name stands for one content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        fill(temporary)
        for part in (*temporary.rglob("*"), temporary):
            _flush(part)
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have what a file or folder holds written to the disk itself, so that a power cut cannot empty it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
