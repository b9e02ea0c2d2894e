"""Base models: where they come from, how they are checked, how they are loaded.

The only dropout of the reference is LoRA's own, so the dropouts of a checkpoint's configuration are switched off
(protocol: LoRA's NLG code ignores them). Weights are loaded in float32, stated explicitly.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

import loda
from loda.cost import Cost
from loda.errors import LodaError
from loda.lab.config import Experiment, ModelConfig
from loda.lab.files import sha256

FILES = ("config.json", "model.safetensors", "tokenizer.json")
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
SHIPPED = Path(__file__).resolve().parent / "toy" / "base"


def identity(config: ModelConfig) -> dict[str, Any]:
    """What determines the base: commit on the hub, or the sha256 of the local files."""
    if config.path is None:
        return {"hub_id": config.hub_id, "revision": config.revision}
    folder = _local(config.path)
    stamps = [(folder / name, (folder / name).stat()) for name in FILES]
    return {path.name: _sha256(path, stat.st_size, stat.st_mtime_ns) for path, stat in stamps}


@lru_cache
def _sha256(path: Path, size: int, modified: int) -> str:
    """Hash of a file; asked again only when its size or time of change is another."""
    return sha256(path)


def locate(config: ModelConfig) -> Path:
    """The folder of the base model, downloaded on first use.

    Raises:
        LodaError: a file is missing, or the download failed.
    """
    if config.path is not None:
        return _local(config.path)
    assert config.hub_id is not None
    try:
        return Path(snapshot_download(config.hub_id, revision=config.revision, allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise LodaError(
            f"the base model {config.hub_id} (commit {str(config.revision)[:12]}) could not be downloaded from the "
            f"Hugging Face hub; give a local folder with {', '.join(FILES)} as model.path=FOLDER, or run `make demo`, "
            "which needs no download"
        ) from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The byte-level BPE; special tokens in a text are encoded as ordinary text, as in the reference."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of a text that is one token.

    Raises:
        LodaError: the text is not one token of the vocabulary.
    """
    found = tokenizer.token_to_id(text)
    ids = [found] if found is not None else tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        raise LodaError(f"{text!r} is not one token of this model's vocabulary; choose another decode.stop")
    return int(ids[0])


def load_base(config: ModelConfig, folder: Path) -> PreTrainedModel:
    """The pre-trained model in float32, in evaluation mode.

    Raises:
        LodaError: unreadable files or another number of parameters than expected.
    """
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **NO_DROPOUT,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise LodaError(f"{folder} does not hold a readable model: {error}") from error
    model, report = loaded
    missing = [*report["missing_keys"], *report["mismatched_keys"]]
    if missing:
        raise LodaError(f"{folder}/model.safetensors lacks {missing[0]} ({len(missing)} in all); download it again")
    _check_parameters(config, model)
    # Padding stands to the right of everything and carries no loss; a padding id would only make transformers warn.
    model.config.pad_token_id = None
    base: PreTrainedModel = model.eval()
    return base


def preflight(experiment: Experiment, folder: Path) -> Cost:
    """Build the method without weights: every shape is checked and the cost known before anything heavy is loaded.

    Raises:
        LodaError: settings that do not fit the base model.
    """
    shape = AutoConfig.from_pretrained(folder, local_files_only=True)
    longest = getattr(shape, "max_position_embeddings", None)
    if longest is not None and experiment.dataset.max_length > longest:
        raise LodaError(
            f"dataset.max_length={experiment.dataset.max_length} exceeds the {longest} positions of model="
            f"{experiment.model.name}; set dataset.max_length={longest} or less"
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    _check_parameters(experiment.model, model)
    loda.inject(model, experiment.method)
    # The longest row that there may be, because a prefix takes positions too.
    model.base_model(inputs_embeds=torch.empty(1, experiment.dataset.max_length, shape.hidden_size, device="meta"))
    return loda.cost(model)


def _check_parameters(config: ModelConfig, model: PreTrainedModel) -> None:
    found = sum(p.numel() for p in model.parameters())
    if config.parameters is not None and found != config.parameters:
        raise LodaError(
            f"the base model has {found:,} parameters, model={config.name} has {config.parameters:,}; "
            "give the right folder, or model.parameters=null for another model"
        )


def _local(path: str) -> Path:
    folder = SHIPPED if path == "toy" else Path(path)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise LodaError(f"model.path={path} lacks {', '.join(missing)}; it needs {', '.join(FILES)}")
    return folder
