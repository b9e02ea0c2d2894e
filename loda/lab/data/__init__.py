"""Data sets as (context, completion) pairs; one file for each data set, found by its name.

A data set is a module of this folder that exports

    FILES: dict[str, SourceFile]         the original file of each split: name, address, git blob id
    pairs(data: bytes) -> list[Pair]     the pairs in the order of the file, from its bytes

Training uses the pairs in file order; decoding and scoring use each distinct context once, with all its references.
"""

import csv
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from loda.errors import LodaError
from loda.lab.data.source import SourceFile, content_hash, locate, read

SPLITS = ("train", "valid", "test")
SEEN = {"test_seen": True, "test_unseen": False}
"""Halves of the test split by `Pair.seen`, for decoding and scoring."""


@dataclass(frozen=True)
class Pair:
    """One reference: the text the model sees and the text it should produce.

    Attributes:
        seen: whether the training split has this category; None in a data set without categories.
    """

    context: str
    completion: str
    seen: bool | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.context, str) and isinstance(self.completion, str)):
            raise TypeError(f"{self.completion!r} of {self.context!r} is not a text")


@dataclass(frozen=True)
class Instance:
    """One distinct context with all its references, in the order of the file."""

    context: str
    references: tuple[str, ...]


def load(name: str, split: str, path: str | Path | None = None) -> list[Instance]:
    """The distinct contexts of a split in order of first appearance, each with all its references.

    Args:
        name: a data set: e2e, dart, webnlg, toy, or jsonl for your own.
        split: train, valid or test; test_seen or test_unseen where pairs say whether their category is seen.
        path: a folder with the original files (plain or gzipped); without it they are downloaded once.

    Raises:
        LodaError: an unknown name or split, or a file that is missing or not the original one.
    """
    return group(load_pairs(name, split, path))


def load_pairs(name: str, split: str, path: str | Path | None = None) -> list[Pair]:
    """All pairs of a split, in the order of the file; arguments and errors as for `load`."""
    module = _module(name)
    if split not in SPLITS and split not in SEEN:
        raise LodaError(f"split={split!r} is not one of {', '.join((*SPLITS, *SEEN))}")
    file: SourceFile = module.FILES["test" if split in SEEN else split]
    pairs = _parse(name, file, *read(name, file, path))
    if split not in SEEN:
        return list(pairs)
    if any(pair.seen is None for pair in pairs):
        raise LodaError(f"split={split!r} needs categories, which dataset.name={name} does not have; use test")
    return [pair for pair in pairs if pair.seen is SEEN[split]]


def group(pairs: Iterable[Pair]) -> list[Instance]:
    """Gather the references of equal contexts, wherever they stand."""
    references: dict[str, list[str]] = {}
    for pair in pairs:
        references.setdefault(pair.context, []).append(pair.completion)
    return [Instance(context, tuple(texts)) for context, texts in references.items()]


def count_pairs(name: str, split: str, path: str | Path | None = None) -> int:
    """The number of pairs of a split; your own files are read for it."""
    known: int | None = _module(name).FILES[split].pairs
    return len(load_pairs(name, split, path)) if known is None else known


def identity(name: str, path: str | Path | None) -> dict[str, Any]:
    """What determines the content of a data set: the git blob ids that reading verifies.

    Of your own files it is the sha256 of those that exist: not every command needs every split.
    """
    files: dict[str, SourceFile] = _module(name).FILES
    return {"name": name, "files": {split: file.blob or _own_hash(name, file, path) for split, file in files.items()}}


def _own_hash(name: str, file: SourceFile, path: str | Path | None) -> str | None:
    try:
        return content_hash(locate(name, file, path))
    except LodaError:
        if path is None:
            raise
        return None


@lru_cache(maxsize=8)
def _parse(name: str, file: SourceFile, path: Path, data: bytes) -> tuple[Pair, ...]:
    """Parse a file once in a process, whoever asks."""
    try:
        pairs: list[Pair] = _module(name).pairs(data)
    except LodaError as error:
        raise LodaError(f"{path}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise LodaError(f"{path} is not in the form of dataset.name={name} ({error}); fetch the file again") from error
    if file.pairs not in (None, len(pairs)):
        raise LodaError(f"{path} gave {len(pairs)} pairs instead of {file.pairs}; fetch the file again")
    return tuple(pairs)


def _module(name: str) -> Any:
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "source"]
    if name not in names:
        raise LodaError(f"dataset.name={name!r} is not one of {', '.join(sorted(names))}")
    return importlib.import_module(f"{__name__}.{name}")
