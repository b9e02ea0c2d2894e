"""A stage is a folder that appears as a whole, with a manifest.json that says what it is.

    {"stage": "decoding",
     "place": "runs/NAME/decode/KEY/epoch-5/test",          its path below the outputs folder
     "key": "...",                                          digest of the settings that determine it
     "inputs": {"runs/NAME/checkpoints/epoch-5": "..."},    the stages it was made from, by place, and their digests
     "files": {"predictions.jsonl": "..."},                 sha256 of each file
     "content": {...}, "provenance": {...}, "format": 2, "sha256": "..."}

Complete: manifest and files are there, and it names this place. Current: key and inputs are those asked for. Sound: the
files hash to what it says. No other module asks these questions. A sound folder in another's place is refused, as git
would.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from loda.atomic import discard_folder, write_folder
from loda.errors import LodaError
from loda.manifest import check_files, hash_files, read_manifest, write_manifest
from loda.settings import load, settings

MANIFEST = "manifest.json"


def digest(value: object, digits: int = 12) -> str:
    """The first hexadecimal digits of the sha256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:digits]


@settings
class Manifest:
    """What manifest.json says; `content` belongs to the stage, `provenance` says where and when it was made."""

    stage: str
    place: str
    key: str
    inputs: dict[str, str]
    files: dict[str, str]
    content: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def digest(self) -> str:
        """Identity of the stage: what it is of and the bytes it holds, not when it was made."""
        return digest([self.stage, self.place, self.key, self.inputs, self.files, self.content], digits=64)


@settings
class Stage:
    """One place below the outputs folder, and what should be there.

    Attributes:
        root: the outputs folder.
        place: path below it.
        kind: name of the stage.
        key: digest of the settings that determine it, where the place does not say them.
        inputs: manifests of the stages it is made from.
    """

    root: Path
    place: str
    kind: str
    key: str = ""
    inputs: tuple[Manifest, ...] = field(default=())

    @property
    def path(self) -> Path:
        return self.root / self.place

    def find(self) -> Manifest | None:
        """The manifest, if the stage is complete and current; the files must be there and are not read.

        Raises:
            LodaError: the manifest is damaged or of another place.
        """
        if not (self.path / MANIFEST).exists():
            return None
        found = read_stage(self.root, self.place)
        if found.stage != self.kind:
            raise LodaError(f"{self.path} holds a {found.stage} where a {self.kind} belongs; move it away")
        is_current = (found.key, found.inputs) == (self.key, self._inputs)
        return found if is_current and all((self.path / name).is_file() for name in found.files) else None

    def load(self) -> Manifest:
        """The manifest of a complete, current and sound stage.

        Raises:
            LodaError: it is missing, or a file was altered.
        """
        found = self.find()
        if found is None:
            why = "lacks a file or was made from something else" if (self.path / MANIFEST).exists() else "is not there"
            raise LodaError(f"{self.path} {why}; run the same command again")
        check_files(self.path, found.files)
        return found

    def write(
        self,
        fill: Callable[[Path], object] = lambda folder: None,
        content: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Let `fill` write the files, and put the folder with its manifest in its place. A current stage there stays.

        Raises:
            LodaError: it cannot be written.
        """

        def filled(folder: Path) -> None:
            fill(folder)
            manifest = {"stage": self.kind, "place": self.place, "key": self.key, "inputs": self._inputs}
            manifest |= {"files": hash_files(folder), "content": content or {}, "provenance": provenance or {}}
            write_manifest(folder / MANIFEST, manifest)

        if self.path.exists() and self.find() is None:
            discard_folder(self.path)
        write_folder(self.path, filled)
        return self.load()

    @property
    def _inputs(self) -> dict[str, str]:
        return {manifest.place: manifest.digest for manifest in self.inputs}


def read_stage(root: Path, place: str) -> Manifest:
    """The manifest of whatever stage is at `place`.

    Raises:
        LodaError: it is damaged, or says that it belongs elsewhere.
    """
    path = root / place / MANIFEST
    found = load(Manifest, read_manifest(path), str(path))
    if found.place != place:
        raise LodaError(f"{root / place} is a copy of {found.place} and cannot stand for it; move it out of {root}")
    return found


def all_places(root: Path) -> Iterator[str]:
    """The places of all stages below an outputs folder."""
    for path in sorted(root.rglob(MANIFEST)):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path.parent.relative_to(root).as_posix()


def is_current(root: Path, manifest: Manifest) -> bool:
    """Whether a stage was made from the stages that are there now."""
    return not _changed_inputs(root, manifest)


def verify(root: Path, place: str) -> None:
    """Check that the stage at `place` is sound and current.

    Raises:
        LodaError: what is wrong.
    """
    found = read_stage(root, place)
    check_files(root / place, found.files)
    for changed in _changed_inputs(root, found):
        raise LodaError(f"{root / place} was made from another {changed}; run the same command again")


def _changed_inputs(root: Path, manifest: Manifest) -> list[str]:
    """The places of inputs that are gone or have other content now."""
    inputs = manifest.inputs.items()
    return [p for p, known in inputs if not (root / p / MANIFEST).exists() or read_stage(root, p).digest != known]
