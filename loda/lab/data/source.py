"""Original files: from a local folder or downloaded once, and verified by git blob id before anything reads them."""

import gzip
import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from loda.atomic import sha256, write_file
from loda.errors import LodaError

TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class SourceFile:
    """One original file.

    Attributes:
        name: file name, in the data set's folder.
        blob: git blob id of its content, with LF or CRLF line ends; a prefix where only that is known. None for a
            file of the user's own, of which there is no original.
        pairs: how many (context, completion) pairs it holds; None for a file of the user's own.
        url: where it is downloaded from; None for a file that ships with the project, or is the user's own.
        also: blob ids of other releases with the same pairs.
        folder: where a shipped file lies.
    """

    name: str
    blob: str | None = None
    pairs: int | None = None
    url: str | None = None
    also: tuple[str, ...] = ()
    folder: Path | None = None


def cache_folder(name: str) -> Path:
    """Where the downloads of one source are kept, below $LODA_CACHE or ~/.cache/loda."""
    return Path(os.environ.get("LODA_CACHE", Path.home() / ".cache" / "loda")) / name


def read(dataset: str, file: SourceFile, path: str | Path | None) -> bytes:
    """The verified bytes of `file`, with LF line ends; those of a file of the user's own are as they are.

    Raises:
        LodaError: the file is missing, cannot be downloaded, or is not the original.
    """
    if file.blob is None:
        return _own(locate(dataset, file, path))
    if path is not None:
        found = _in_folder(Path(path), file.name)
        if found is None:
            raise LodaError(
                f"{file.name} (or {file.name}.gz) is not in dataset.path={path}; put the file from "
                f"{file.url} there, or leave dataset.path out to download it"
            )
    else:
        folder = file.folder or cache_folder(dataset)
        found = _in_folder(folder, file.name) or _download(dataset, file, folder)
    return _verified(found, file)


def locate(dataset: str, file: SourceFile, path: str | Path | None) -> Path:
    """Where a file of the user's own lies.

    Raises:
        LodaError: no folder was given, or it does not hold the file.
    """
    if path is None:
        raise LodaError(
            f"dataset={dataset} reads your own files; give their folder as dataset.path=FOLDER, with {file.name} in it"
        )
    found = _in_folder(Path(path), file.name)
    if found is None:
        raise LodaError(f"{file.name} (or {file.name}.gz) is not in dataset.path={path}")
    return found


def content_hash(path: Path) -> str:
    """The sha256 of a file; computed again only when its size or time of change is another."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache
def _hash(path: Path, size: int, modified: int) -> str:
    return sha256(path)


def _own(path: Path) -> bytes:
    return _with_lf(_bytes(path, "save it again"))


def _in_folder(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _verified(path: Path, file: SourceFile) -> bytes:
    data = _bytes(path, _remedy(file))
    if not _is_original(data, file):
        raise LodaError(
            f"{path} is not the original file: its git blob id is {blob_id(data)[:12]} instead of "
            f"{str(file.blob)[:12]}; "
            f"{_remedy(file)}"
        )
    return _with_lf(data)


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise LodaError(f"{path} cannot be read ({error}); {remedy}") from error


def _remedy(file: SourceFile) -> str:
    return f"delete it and fetch it from {file.url}" if file.url else "restore it with git checkout"


def _is_original(data: bytes, file: SourceFile) -> bool:
    """Whether this is the file, with its own line ends or with those of another system."""
    text = _with_lf(data)
    ids = (blob_id(text), blob_id(text.replace(b"\n", b"\r\n")))
    return any(found.startswith(known) for found in ids for known in (str(file.blob), *file.also))


def _with_lf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


def blob_id(data: bytes) -> str:
    """The name git gives a file of this content: sha1 of "blob <length>\\0" and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _download(dataset: str, file: SourceFile, folder: Path) -> Path:
    target = folder / file.name
    if file.url is None:
        raise LodaError(f"{target} ships with the project and is missing; restore it with git checkout")
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT_SECONDS) as response:
            data = response.read()
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise LodaError(
            f"{file.name} of {dataset} is not in {folder} and could not be downloaded from {file.url} ({error}); "
            f"give a local folder that holds it with dataset.path=FOLDER, or run `make demo`, which needs no download"
        ) from error
    if not _is_original(data, file):
        raise LodaError(
            f"{file.url} sent something else than the original {file.name}; try again, or give dataset.path"
        )
    write_file(target, lambda temporary: temporary.write_bytes(data))
    return target
