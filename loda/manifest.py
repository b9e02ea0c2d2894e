"""JSON files that carry their own hash, and the hashes of the files beside them.

    {"format": 2, ..., "files": {"adapter_model.safetensors": "<sha256>"}, "sha256": "<sha256 of the lines above>"}

`read_manifest` notices a changed byte in the JSON file, `check_files` one in the files that it lists.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loda.atomic import sha256, write_text
from loda.errors import LodaError
from loda.settings import parse_json, read_bytes

FORMAT = 2
"""Raised when the layout of saved files changes; other formats are not read."""


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` atomically, with the format and a hash over both."""
    text = json.dumps({"format": FORMAT, **content}, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, _seal(text.removesuffix("\n}").encode()).decode())


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the content that `write_manifest` was given; LodaError if it is missing, altered or of another format."""
    data = read_bytes(path)
    content = parse_json(data, path)
    if not isinstance(content, dict) or not {"format", "sha256"} <= set(content):
        raise LodaError(f"{path} is not a manifest of this project; restore it from a copy")
    found = content.pop("format")
    del content["sha256"]
    if found != FORMAT:
        raise LodaError(f"{path} has format {found!r}, this version reads {FORMAT}; make the folder again")
    described = data.rpartition(_SEAL)[0]
    if data != _seal(described):
        raise LodaError(f"{path} was changed after it was written; restore it from a copy")
    return content


def hash_files(folder: Path, *but: str) -> dict[str, str]:
    """Return the sha256 of every file in `folder` by its path within, without the files named `but`."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: sha256(path) for name, path in files.items() if name not in but}


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise LodaError if a file in `folder` is missing or has another hash than in `hashes`."""
    remedy = "restore it from a copy, or delete the folder and make it again"
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise LodaError(f"{path} is missing; {remedy}")
        if sha256(path) != expected:
            raise LodaError(f"{path} was changed after it was written, its sha256 differs; {remedy}")


_SEAL, _END = b',\n  "sha256": ', b"\n}\n"


def _seal(described: bytes) -> bytes:
    """The text of a manifest: `described`, which lacks the closing brace, and the hash of it with the brace."""
    return described + _SEAL + f'"{hashlib.sha256(described + _END).hexdigest()}"'.encode() + _END
