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
            user's own file, which has no original.
        pairs: how many (context, completion) pairs it holds; None for a user's own file.
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

    @property
    def remedy(self) -> str:
        """How to get the file again."""
        if self.blob is None:
            return "save it again"
        return f"delete it and fetch it from {self.url}" if self.url else "restore it with git checkout"


def cache_folder(name: str) -> Path:
    """Where the downloads of one source are kept, below $LODA_CACHE or ~/.cache/loda."""
    return Path(os.environ.get("LODA_CACHE") or Path.home() / ".cache" / "loda") / name


def locate(dataset: str, file: SourceFile, path: str | Path | None) -> Path:
    """The path of a file, which is downloaded on first use.

    Raises:
        LodaError: it is missing or cannot be downloaded.
    """
    if path is None and file.blob is None:
        raise LodaError(
            f"dataset={dataset} reads your own files; give their folder as dataset.path=FOLDER, with {file.name} in it"
        )
    folder = Path(path) if path is not None else file.folder or cache_folder(dataset)
    found = [p for p in (folder / file.name, folder / f"{file.name}.gz") if p.is_file()]
    if len(found) > 1 and file.blob is None:
        raise LodaError(f"{folder} holds {file.name} and {file.name}.gz, which may differ; remove one of them")
    if found:
        return found[0]
    if path is not None:
        source = f"; put the file from {file.url} there, or leave dataset.path out to download it" if file.url else ""
        raise LodaError(f"{file.name} (or {file.name}.gz) is not in dataset.path={path}{source}")
    if file.url is None:
        raise LodaError(f"{folder / file.name} ships with the project and is missing; {file.remedy}")
    return _download(dataset, file, file.url, folder / file.name)


def read(dataset: str, file: SourceFile, path: str | Path | None) -> tuple[Path, bytes]:
    """The path of a file and its bytes with LF line ends. A file that does not change is read once in a process.

    Raises:
        LodaError: it is missing, cannot be downloaded or read, or is not the original.
    """
    found = locate(dataset, file, path)
    stat = found.stat()
    return found, _read(found, file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, file: SourceFile, size: int, modified: int) -> bytes:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise LodaError(f"{path} cannot be read ({error}); {file.remedy}") from error
    if not _is_original(data, file):
        raise LodaError(
            f"{path} is not the original file: its git blob id is {blob_id(data)[:12]} instead of "
            f"{str(file.blob)[:12]}; {file.remedy}"
        )
    return _with_lf(data)


def content_hash(path: Path) -> str:
    """The sha256 of a file, computed again only when its size or modification time changes."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache
def _hash(path: Path, size: int, modified: int) -> str:
    return sha256(path)


def blob_id(data: bytes) -> str:
    """The name git gives a file of this content: sha1 of "blob <length>\\0" and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_original(data: bytes, file: SourceFile) -> bool:
    """Whether this is the file, with its own line ends or with those of another system."""
    if file.blob is None:
        return True
    text = _with_lf(data)
    ids = (blob_id(text), blob_id(text.replace(b"\n", b"\r\n")))
    return any(found.startswith(known) for found in ids for known in (file.blob, *file.also))


def _with_lf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


def _download(dataset: str, file: SourceFile, url: str, target: Path) -> Path:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            data = response.read()
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise LodaError(
            f"{file.name} of {dataset} is not in {target.parent} and could not be downloaded from {url} ({error}); "
            "give a local folder that holds it with dataset.path=FOLDER, or run `make demo`, which needs no download"
        ) from error
    if not _is_original(data, file):
        raise LodaError(f"{url} sent something else than the original {file.name}; try again, or give dataset.path")
    write_file(target, lambda temporary: temporary.write_bytes(data))
    return target
