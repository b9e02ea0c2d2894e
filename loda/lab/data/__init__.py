"""Data sets as (context, completion) pairs; one file for each data set, found by its name.

A data set is a module of this folder that exports

    FILES: dict[str, SourceFile]     the original file of each split: name, address, git blob id
    pairs(data: bytes) -> list[Pair]     the pairs in the order of the file, from the original bytes

Training uses the pairs in file order; decoding and scoring use each distinct context once, with all its references.
"""

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loda.errors import LodaError
from loda.lab.data.source import read

if TYPE_CHECKING:
    from loda.lab.config import DatasetConfig

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Pair:
    """One reference: the text the model sees and the text it should produce."""

    context: str
    completion: str


@dataclass(frozen=True)
class Example:
    """One distinct context with all its references, in the order of the file."""

    context: str
    references: tuple[str, ...]


def load(name: str, split: str, path: str | Path | None = None) -> list[Example]:
    """The distinct contexts of a split in order of first appearance, each with all its references.

    Args:
        name: a data set: e2e, dart, webnlg or toy.
        split: train, valid or test.
        path: a folder with the original files (plain or gzipped); without it they are downloaded once.

    Raises:
        LodaError: an unknown name or split, or a file that is missing or not the original one.
    """
    return group(load_pairs(name, split, path))


def load_pairs(name: str, split: str, path: str | Path | None = None) -> list[Pair]:
    """All pairs of a split, in the order of the file; arguments and errors as for `load`."""
    module = _module(name)
    if split not in SPLITS:
        raise LodaError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    file = module.FILES[split]
    pairs: list[Pair] = module.pairs(read(name, file, path))
    if len(pairs) != file.pairs:
        raise LodaError(f"{file.name} of {name} gave {len(pairs)} pairs instead of {file.pairs}; fetch the file again")
    return pairs


def group(pairs: Iterable[Pair]) -> list[Example]:
    """Gather the references of equal contexts, wherever they stand."""
    references: dict[str, list[str]] = {}
    for pair in pairs:
        references.setdefault(pair.context, []).append(pair.completion)
    return [Example(context, tuple(texts)) for context, texts in references.items()]


def count(name: str, split: str) -> int:
    """How many pairs a split has, without reading it."""
    pairs: int = _module(name).FILES[split].pairs
    return pairs


def identity(config: "DatasetConfig") -> dict[str, Any]:
    """What determines the content of a data set: the blob ids of its files, which reading verifies."""
    files = _module(config.name).FILES
    return {"name": config.name, "files": {split: file.blob for split, file in files.items()}}


def _module(name: str) -> Any:
    names = [m.name for m in pkgutil.iter_modules(__path__) if m.name != "source"]
    if name not in names:
        raise LodaError(f"dataset.name={name!r} is not one of {', '.join(sorted(names))}")
    return importlib.import_module(f"{__name__}.{name}")
