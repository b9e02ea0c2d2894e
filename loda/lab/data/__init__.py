"""Data sets as (context, completion) pairs; one file for each data set, found by its name.

A data set is a module of this folder that exports

    FILES: dict[str, SourceFile]     the original file of each split: name, address, git blob id; of a user's own, name
    pairs(data: bytes) -> list[Pair]     the pairs in the order of the file, from the original bytes
    entries(data: bytes) -> list[list[Pair]]     optional: the same pairs, by entry of the file, where entries recur

and, where the same pairs come in several forms, each form by its name:

    VARIANTS: dict[str, Variant]

Training uses the pairs in file order; decoding and scoring use each distinct context once, with all its references.
"""

import csv
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loda.errors import LodaError
from loda.lab.data.source import SourceFile, content_hash, locate, read

if TYPE_CHECKING:
    from loda.lab.config import DatasetConfig

T = TypeVar("T")
SPLITS = ("train", "valid", "test")
PARTS = {"test_seen": True, "test_unseen": False}
"""Parts of the test split by `Pair.seen`, for decoding and scoring."""


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
        """Refuse what a file of another form would give."""
        if not (isinstance(self.context, str) and isinstance(self.completion, str)):
            raise TypeError(f"{self.completion!r} of {self.context!r} is no text")


@dataclass(frozen=True)
class Variant:
    """A data set in one form: its files, and how pairs are read from them; the counts are those of all forms."""

    files: Mapping[str, SourceFile]
    pairs: Callable[[bytes], list[Pair]]


@dataclass(frozen=True)
class Example:
    """One distinct context with all its references, in the order of the file."""

    context: str
    references: tuple[str, ...]


def load(name: str, split: str, path: str | Path | None = None, variant: str | None = None) -> list[Example]:
    """The distinct contexts of a split in order of first appearance, each with all its references.

    Args:
        name: a data set: e2e, dart, webnlg, toy, or jsonl for one's own.
        split: train, valid or test; test_seen or test_unseen where the pairs say whether their category is seen.
        path: a folder with the original files (plain or gzipped); without it they are downloaded once.
        variant: the form of the data set, where it has several; None is the module's own `FILES` and `pairs`.

    Raises:
        LodaError: an unknown name, split or variant, or a file that is missing or not the original one.
    """
    return group(load_pairs(name, split, path, variant))


def load_pairs(name: str, split: str, path: str | Path | None = None, variant: str | None = None) -> list[Pair]:
    """All pairs of a split, in the order of the file; arguments and errors as for `load`."""
    form = _form(name, variant)
    if split not in SPLITS and split not in PARTS:
        raise LodaError(f"split={split!r} is not one of {', '.join((*SPLITS, *PARTS))}")
    file = form.files["test" if split in PARTS else split]
    data = read(name, file, path)
    pairs = _parsed(form.pairs, data, file.name, name, path)
    if file.pairs not in (None, len(pairs)):
        raise LodaError(f"{file.name} of {name} gave {len(pairs)} pairs instead of {file.pairs}; fetch the file again")
    if split not in PARTS:
        return pairs
    if any(pair.seen is None for pair in pairs):
        raise LodaError(f"split={split!r} needs categories, which dataset.name={name} has not; use test")
    return [pair for pair in pairs if pair.seen is PARTS[split]]


def load_entries(name: str, split: str, path: str | Path | None = None, variant: str | None = None) -> list[Example]:
    """The entries of a split in the order of the file, each with its own references.

    They differ from the distinct contexts of `load` where a context recurs, as it does in DART. Arguments and errors
    are those of `load`.
    """
    module, form = _module(name), _form(name, variant)
    if split not in SPLITS or not hasattr(module, "entries"):
        return load(name, split, path, variant)
    file = form.files[split]
    entries: list[list[Pair]] = _parsed(module.entries, read(name, file, path), file.name, name, path)
    return [Example(pairs[0].context, tuple(pair.completion for pair in pairs)) for pairs in entries]


def _parsed(parse: Callable[[bytes], T], data: bytes, file: str, name: str, path: str | Path | None) -> T:
    """What `parse` makes of a file; whatever it stumbles over is the file's fault."""
    try:
        return parse(data)
    except LodaError as error:
        raise LodaError(f"{file} in {path}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise LodaError(f"{file} is not in the form of dataset.name={name} ({error}); fetch the file again") from error


def group(pairs: Iterable[Pair]) -> list[Example]:
    """Gather the references of equal contexts, wherever they stand."""
    references: dict[str, list[str]] = {}
    for pair in pairs:
        references.setdefault(pair.context, []).append(pair.completion)
    return [Example(context, tuple(texts)) for context, texts in references.items()]


def count(config: "DatasetConfig", split: str) -> int:
    """How many pairs a split has, in any variant; files of the user's own are read for it."""
    pairs: int | None = _module(config.name).FILES[split].pairs
    return len(load_pairs(config.name, split, config.path, config.variant)) if pairs is None else pairs


def identity(config: "DatasetConfig") -> dict[str, Any]:
    """What determines the content of a data set: the blob ids of its variant's files, which reading verifies.

    Of the user's own files, the sha256 of those that are there.
    """
    files = _form(config.name, config.variant).files
    return {"name": config.name, "files": {split: _identity(config, file) for split, file in files.items()}}


def _identity(config: "DatasetConfig", file: SourceFile) -> str | None:
    if file.blob is not None:
        return file.blob
    try:
        return content_hash(locate(config.name, file, config.path))
    except LodaError:
        # Not every command needs every split; the one that does says what is missing.
        if config.path is None:
            raise
        return None


def _form(name: str, variant: str | None) -> Variant:
    module = _module(name)
    if variant is None:
        return Variant(module.FILES, module.pairs)
    variants: dict[str, Variant] = getattr(module, "VARIANTS", {})
    if variant not in variants:
        known = ", ".join(variants) or "null: this data set comes in one form"
        raise LodaError(f"dataset.variant={variant!r} of dataset.name={name} is not one of {known}")
    return variants[variant]


def _module(name: str) -> Any:
    names = [m.name for m in pkgutil.iter_modules(__path__) if m.name != "source"]
    if name not in names:
        raise LodaError(f"dataset.name={name!r} is not one of {', '.join(sorted(names))}")
    return importlib.import_module(f"{__name__}.{name}")
