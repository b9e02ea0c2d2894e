"""Base models as files: where they come from and what identifies them. `loda/lab/base/model.py` loads them."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from loda.errors import LodaError
from loda.lab.base import gguf
from loda.lab.config import ModelConfig
from loda.lab.data.source import blob_id, content_hash
from loda.settings import read_json

FILES = ("config.json", "model.safetensors", "tokenizer.json")
SHARDS = "model.safetensors.index.json"
"""Stands for model.safetensors where the weights are in several files."""
SHIPPED = Path(__file__).resolve().parents[1] / "toy" / "base"


def identity(config: ModelConfig) -> dict[str, Any]:
    """What determines the base: commit on the hub, or the sha256 of the local files."""
    if config.is_gguf:
        return gguf.identity(config)
    if config.path is None:
        return {"hub_id": config.hub_id, "revision": config.revision}
    folder = _local(config.path)
    return {name: content_hash(folder / name) for name in _names(folder)}


def content(config: ModelConfig) -> dict[str, Any]:
    """What the base's files hold: of one from the hub `identity` is a promise, this is what lies in its cache."""
    if config.is_gguf or config.path is not None:
        return identity(config)
    folder = locate(config)
    return {name: content_hash(folder / name) for name in _names(folder)}


def locate(config: ModelConfig) -> Path:
    """The folder of the base model, downloaded or converted on first use.

    Raises:
        LodaError: a file is missing, or the download or conversion failed.
    """
    if config.is_gguf:
        return gguf.locate(config)
    if config.path is not None:
        return _local(config.path)
    assert config.hub_id is not None
    try:
        folder = Path(snapshot_download(config.hub_id, revision=config.revision, allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise LodaError(
            f"the base model {config.hub_id} (commit {str(config.revision)[:12]}) could not be downloaded from the "
            f"Hugging Face hub; give a local folder with {', '.join(FILES)} as model.path=FOLDER, or run `make demo`, "
            "which needs no download"
        ) from error
    _check_blobs(folder)
    return folder


def find_config(config: ModelConfig) -> Path | None:
    """The base's config.json if it is on this machine; nothing is downloaded."""
    found: Any = None
    if config.is_gguf:
        if config.path is None or Path(config.path).is_file():
            found = gguf.stage_of(config).path / "config.json"
    elif config.path is not None:
        found = _folder(config.path) / "config.json"
    else:
        assert config.hub_id is not None
        found = try_to_load_from_cache(config.hub_id, "config.json", revision=config.revision)
    return Path(found) if isinstance(found, str | Path) and Path(found).is_file() else None


def _check_blobs(folder: Path) -> None:
    """Check the files of a commit in the hub's cache: links to blobs, which are named by the hash of their content."""
    for path in sorted(folder.iterdir()):
        if not path.is_symlink():
            continue
        blob = path.resolve()
        is_large = len(blob.name) == 64  # a sha256; others are named as git names them
        if blob.name != (content_hash(blob) if is_large else blob_id(blob.read_bytes())):
            raise LodaError(f"{blob} was changed after its download, its name is not its hash; delete it and try again")


def _folder(path: str) -> Path:
    return SHIPPED if path == "toy" else Path(path)


def _local(path: str) -> Path:
    folder = _folder(path)
    missing = [name for name in _names(folder) if not (folder / name).is_file()]
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise LodaError(
            f"model.path={path} is no folder here; if that is a name on the Hugging Face hub, download it first: "
            f"`hf download {path} --local-dir FOLDER`, then model.path=FOLDER"
        )
    if missing:
        raise LodaError(f"model.path={path} lacks {', '.join(missing)}; it needs {', '.join(FILES)}")
    return folder


def _names(folder: Path) -> list[str]:
    index = folder / SHARDS
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return list(FILES)
    content = read_json(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    shards = set(named.values()) if isinstance(named, dict) else set()
    if not shards or not all(isinstance(name, str) and Path(name).name == name for name in shards):
        raise LodaError(f"{index} has no weight_map that names the files of weights beside it; restore it from a copy")
    return ["config.json", SHARDS, *sorted(shards), "tokenizer.json"]
