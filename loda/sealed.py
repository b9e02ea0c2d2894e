"""Files that know their own hash, so that an altered byte is noticed and named when they are read.

    JSON        its last key, "sha256", is the hash of the text without it; the text has one form, so every byte counts
    a folder    "sha256.json", sealed JSON itself, lists the hash of every other file

A file without the key is one of an earlier version, or of somebody else, and is read as it is.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loda.atomic import sha256, write_folder, write_text
from loda.errors import LodaError

KEY = "sha256"
PREFIX = "sha256:"
LISTING = "sha256.json"


def dumps(content: Mapping[str, Any]) -> str:
    """`content` as sealed JSON; NaN is refused."""
    return _text({**content, KEY: _hash(content)})


def loads(text: str, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """What `dumps` was given, or the content of JSON without a seal.

    Raises:
        ValueError: not JSON, or another text than `dumps` returned.
    """
    content = json.loads(text, parse_constant=parse_constant)
    # The value says once more what it is, so that a seal whose key was altered does not pass for none.
    if isinstance(content, dict) and (KEY in content or PREFIX in text):
        content.pop(KEY, None)
        if text != dumps(content):
            raise ValueError("it is not what was written, its sha256 is another")
    return content


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write sealed JSON atomically."""
    write_text(path, dumps(content))


def read_json(path: Path) -> Any:
    """The content of a JSON file, sealed or not, without the seal.

    Raises:
        LodaError: not JSON, or altered; the name of the file and the remedy.
    """
    try:
        return loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LodaError(f"{path} is damaged ({error}); delete it and run the same command again") from error


def is_sealed(path: Path) -> bool:
    """Whether a JSON file carries its hash."""
    return KEY in json.loads(path.read_text(encoding="utf-8"))


def write_sealed_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """`loda.atomic.write_folder`, with a listing of what `fill` wrote."""

    def filled(folder: Path) -> None:
        fill(folder)
        write_sealed(folder / LISTING, {"files": hashes(folder)})

    write_folder(path, filled)


def check_folder(path: Path) -> None:
    """Check that a folder of `write_sealed_folder` holds what was written.

    Raises:
        LodaError: a file is missing, altered or too many; its name and the remedy.
    """
    try:
        expected = loads((path / LISTING).read_text(encoding="utf-8"))["files"]
        found = hashes(path)
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        wrong = [LISTING]
    if wrong:
        raise LodaError(
            f"{path} is damaged ({path / wrong[0]} is not what was written there); delete it, and it is made again"
        )


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file in a folder but the listing itself, by its path within."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / LISTING)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def _hash(content: Mapping[str, Any]) -> str:
    return PREFIX + hashlib.sha256(_text(content).encode("utf-8")).hexdigest()


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
