"""Base models: checked without weights, loaded once in a process, handed out without adapters.

The reference has no dropout but LoRA's own, so the dropouts of a checkpoint's configuration are switched off, by the
names that the architectures have for them. Weights are loaded in float32, stated explicitly.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

import loda
from loda.checkpoint import fingerprint
from loda.config import LodaConfig
from loda.costs import Cost
from loda.errors import LodaError, describe
from loda.interfaces import BaseProjection
from loda.lab.base.files import find_config, identity
from loda.lab.base.loading import load_config, load_model, make_model
from loda.lab.config import Experiment, ModelConfig
from loda.lab.stage import digest
from loda.projection import projections

DROPOUTS = (
    *("attn_pdrop", "embd_pdrop", "resid_pdrop"),  # GPT-2, GPT-J, Phi-3
    *("attention_dropout", "embed_dropout", "resid_dropout", "hidden_dropout"),  # GPT-Neo, GPT-NeoX, BLOOM, Llama, ...
    *("dropout", "activation_dropout", "layerdrop"),  # OPT
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),  # BioGPT
    *("residual_dropout", "embedding_dropout"),  # StarCoder 2
)


MOST_LAYERS = 1_000
"""No model has more, and building a million of them takes hours."""


class Base:
    """A pre-trained model, loaded when it is first needed; adapters are put on it and taken off again."""

    def __init__(self, config: ModelConfig, folder: Path, content: str) -> None:
        self.config = config
        self.folder = folder
        self.content = content

    @cached_property
    def shape(self) -> PretrainedConfig:
        """The configuration, its dropouts off."""
        return _shape(self.config, self.folder)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in float32, in evaluation mode, without adapters.

        Raises:
            LodaError: its files are unreadable, or changed since the run was named after their content.
        """
        model = load_base(self.config, self.folder)
        if digest(identity(self.config)) != self.content:
            raise LodaError(f"the files of model.path={self.config.path} changed meanwhile; run the same command again")
        return model

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the weights, which saved adapters carry."""
        return fingerprint(self.model)

    @contextmanager
    def adapted(self, method: LodaConfig, approximation: Mapping[str, Tensor] | None) -> Iterator[PreTrainedModel]:
        """The model with new adapters; the base again afterwards."""
        with self._restored():
            yield loda.inject(self.model, method, approximation)

    @contextmanager
    def loaded(self, adapter: Path, approximation: Mapping[str, Tensor] | None) -> Iterator[PreTrainedModel]:
        """The model with a saved adapter; the base again afterwards."""
        with self._restored():
            known = self.fingerprint
            yield loda.from_pretrained(self.model, adapter, approximation=approximation, base_fingerprint=known)

    @contextmanager
    def _restored(self) -> Iterator[None]:
        try:
            yield
            # On the CPU again, where an approximation has the same rounding whatever ran before.
            loda.unload(self.model).cpu()
        except BaseException:
            # Nobody knows what an interruption left in the model, so the next user loads it again.
            self.__dict__.pop("model", None)
            raise

    def check(self, experiment: Experiment) -> Cost:
        """Build the method without weights, to check every shape and know the cost before anything heavy is loaded.

        Raises:
            LodaError: settings that do not fit the base model.
        """
        longest = getattr(self.shape, "max_position_embeddings", None)
        if longest is not None and experiment.dataset.max_length > longest:
            raise LodaError(
                f"dataset.max_length={experiment.dataset.max_length} exceeds the {longest} positions of model="
                f"{self.config.name}; set dataset.max_length={longest} or less"
            )
        model: Any = _without_weights(self.config, self.shape)
        loda.inject(model, experiment.method)
        # The longest example that there may be, because a prefix takes positions too.
        width = model.get_input_embeddings().embedding_dim  # OPT-350m's is not that of its blocks
        model.base_model(inputs_embeds=torch.empty(1, experiment.dataset.max_length, width, device="meta"))
        cost = loda.cost(model)
        for projection in projections(model).values():
            base, dense = cast(BaseProjection, projection.base), projection.d_in * projection.d_out
            if base.macs() > dense and getattr(experiment.method.approx, "is_planned", True):
                warnings.warn(
                    f"{experiment.method.approx} computes more than what it replaces: {base.macs():,} multiply-"
                    f"accumulates for a projection of {projection.d_in} x {projection.d_out} = {dense:,}",
                    stacklevel=2,
                )
                break
        return cost


@lru_cache(maxsize=1)
def get_base(config: ModelConfig, folder: Path, content: str) -> Base:
    """The base of this process, which all runs of a table or sweep share; `content` identifies the files' content."""
    return Base(config, folder, content)


@cache
def cost_by_shape(config: ModelConfig, method: LodaConfig) -> Cost | None:
    """The cost of a method on a base of which nothing is loaded; None where no shape is known or the method misfits.

    Raises:
        LodaError: a config.json that is unreadable or not that of `config`.
    """
    model = _known_shape(config)
    if model is None:
        return None
    try:
        with torch.device("meta"):
            loda.inject(model, method)
    except LodaError:  # the run itself would say what does not fit
        return None
    found = loda.cost(model)
    loda.unload(model)
    return found


def load_base(config: ModelConfig, folder: Path) -> PreTrainedModel:
    """Load the pre-trained model in float32, in evaluation mode.

    Raises:
        LodaError: unreadable files or another number of parameters than expected.
    """
    transformers_logging.disable_progress_bar()
    try:
        loaded = load_model(
            folder,
            config=_shape(config, folder),
            dtype=torch.float32,
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


def _shape(config: ModelConfig, folder: Path) -> PretrainedConfig:
    path = folder / "config.json"
    try:
        shape = load_config(folder)
    except Exception as error:  # transformers raises whatever comes up
        raise LodaError(f"{path} does not describe a model of transformers: {describe(error)}") from error
    for name, value in (config.shape or {}).items():
        if (found := getattr(shape, name, None)) != value:
            raise LodaError(
                f"{path} has {name}={found}, model={config.name} has {value}; give the right folder, or model=local "
                "for another model"
            )
    if (layers := getattr(shape, "num_hidden_layers", 0)) > MOST_LAYERS:
        raise LodaError(f"{path} has {layers:,} layers, more than {MOST_LAYERS:,}; give the configuration of the base")
    for name in DROPOUTS:
        if hasattr(shape, name):
            setattr(shape, name, 0.0)
    return shape


@lru_cache(maxsize=1)
def _known_shape(config: ModelConfig) -> PreTrainedModel | None:
    """The model without weights, by its config.json or else by `config.shape`."""
    path = find_config(config)
    if path is not None:
        return _without_weights(config, _shape(config, path.parent))
    known: dict[str, Any] | None = config.shape
    return None if known is None else _without_weights(config, AutoConfig.for_model(**known))


def _without_weights(config: ModelConfig, shape: PretrainedConfig) -> PreTrainedModel:
    """The model on the meta device."""
    try:
        with torch.device("meta"):
            model: PreTrainedModel = make_model(shape)
    except Exception as error:  # as above: no heads, a negative vocabulary
        raise LodaError(
            f"model={config.name} has a config.json of which no model can be made: {describe(error)}"
        ) from error
    _check_parameters(config, model)
    return model


def _check_parameters(config: ModelConfig, model: PreTrainedModel) -> None:
    found = sum(p.numel() for p in model.parameters())
    if config.parameters is not None and found != config.parameters:
        raise LodaError(
            f"the base model has {found:,} parameters, model={config.name} has {config.parameters:,}; "
            "give the right folder, or model=local for another model"
        )
