"""Base models: how they are checked, how they are loaded.

The only dropout of the reference is LoRA's own, so the dropouts of a checkpoint's configuration are switched off
(protocol: LoRA's NLG code ignores them), by the names that the architectures have for them. Weights
are loaded in float32, stated explicitly.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

import loda
from loda.cost import Cost
from loda.errors import LodaError
from loda.lab.config import Experiment, ModelConfig
from loda.sealed import read_json

END_OF_TEXT = "<|endoftext|>"
DROPOUTS = (
    *("attn_pdrop", "embd_pdrop", "resid_pdrop"),  # GPT-2, GPT-J, Phi-3
    *("attention_dropout", "embed_dropout", "resid_dropout", "hidden_dropout"),  # GPT-Neo, GPT-NeoX, BLOOM, Llama, ...
    *("dropout", "activation_dropout", "layerdrop"),  # OPT
)
PACKABLE = ("gpt2", "gpt_neox", "opt", "phi3", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")
"""The architectures whose losses `trainer.fast` was tested to keep; others add more to attention than its mask."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """The base's tokenizer; special tokens in a text are encoded as ordinary text, as in the reference.

    The token that its configuration says ends a text goes by GPT-2's name, `END_OF_TEXT`, so that the rows, the stop
    tokens and the scorers know that one name alone, whatever the base calls it. Beside a tokenizer without a base there
    is no configuration, and the token has that name already.

    Raises:
        LodaError: a base whose configuration names no such token.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if (folder / "config.json").is_file():
        name = _end_of_text(tokenizer, folder)
        tokenizer = tokenizer if name == END_OF_TEXT else _exchanged(tokenizer, name, END_OF_TEXT)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _end_of_text(tokenizer: Tokenizer, folder: Path) -> str:
    """The token that the base's configuration names."""
    ids = read_json(folder / "config.json").get("eos_token_id")
    number = ids[0] if isinstance(ids, list) and ids else ids
    name = tokenizer.id_to_token(number) if isinstance(number, int) else None
    if name is None:
        raise LodaError(
            f"{folder}/config.json has eos_token_id={ids!r}, which is no token of tokenizer.json; set it to the id of "
            "the token that ends a text"
        )
    return str(name)


def _exchanged(tokenizer: Tokenizer, one: str, other: str) -> Tokenizer:
    """The same tokenizer with the names of two tokens exchanged; there need not be the other."""
    names = {one: other, other: one}
    content = json.loads(tokenizer.to_str())
    for added in content["added_tokens"]:
        added["content"] = names.get(added["content"], added["content"])
    vocabulary = content["model"].get("vocab", {})
    if isinstance(vocabulary, dict):
        content["model"]["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
    else:  # Unigram: [token, score]
        content["model"]["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    # It adds special tokens to a text, which nothing here asks for, and knows them by their names.
    content["post_processor"] = None
    return Tokenizer.from_str(json.dumps(content))


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
            config=_configuration(folder),
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise LodaError(f"{folder} does not hold a readable model: {error}") from error
    model, report = loaded
    missing = [*report["missing_keys"], *report["mismatched_keys"]]
    if missing:
        raise LodaError(f"{folder} lacks the weight {missing[0]} ({len(missing)} in all); download it again")
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
    shape = _configuration(folder)
    longest = getattr(shape, "max_position_embeddings", None)
    if longest is not None and experiment.dataset.max_length > longest:
        raise LodaError(
            f"dataset.max_length={experiment.dataset.max_length} exceeds the {longest} positions of model="
            f"{experiment.model.name}; set dataset.max_length={longest} or less"
        )
    if experiment.trainer.fast:
        _check_packable(shape, experiment.dataset.max_length)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    _check_parameters(experiment.model, model)
    loda.inject(model, experiment.method)
    # The longest row that there may be, because a prefix takes positions too.
    width = model.get_input_embeddings().embedding_dim  # OPT-350m's is not that of its blocks
    model.base_model(inputs_embeds=torch.empty(1, experiment.dataset.max_length, width, device="meta"))
    return loda.cost(model)


def _check_packable(shape: PretrainedConfig, max_length: int) -> None:
    """Raise LodaError where `loda.lab.training.packing` would compute another loss."""
    if shape.model_type not in PACKABLE:
        raise LodaError(
            f"trainer.fast=true keeps the losses of {', '.join(PACKABLE)}, not of {shape.model_type}; "
            "set trainer.fast=false"
        )
    window = getattr(shape, "sliding_window", None)
    if window is not None and window < max_length:
        raise LodaError(
            f"trainer.fast=true has no sliding windows, and this base's {window} tokens are fewer than "
            f"dataset.max_length={max_length}; set trainer.fast=false, or dataset.max_length={window} or less"
        )


def _configuration(folder: Path) -> PretrainedConfig:
    """The base's configuration, its dropouts off."""
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def _check_parameters(config: ModelConfig, model: PreTrainedModel) -> None:
    found = sum(p.numel() for p in model.parameters())
    if config.parameters is not None and found != config.parameters:
        raise LodaError(
            f"the base model has {found:,} parameters, model={config.name} has {config.parameters:,}; "
            "give the right folder, or model=local for another model"
        )
