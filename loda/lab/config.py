"""An experiment as frozen dataclasses, and the one function that makes it from Hydra's configuration.

Hydra composes YAML files; `resolve` turns the result into an `Experiment`, checks every value, and from there no
function sees a `DictConfig`. Group files hold what the paper fixes or what differs from the defaults below.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loda.errors import LodaError
from loda.lab.data import PARTS, SPLITS
from loda.lab.training.sampler import ORDERS

if TYPE_CHECKING:
    from loda import LodaConfig

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
INCOMPATIBLE_WITH_PREFIX = {
    "activation_checkpointing": "drops the cache that",
    "fast": "has one row, not several, for the cache that",
}
Node = TypeVar("Node")


@dataclass(frozen=True)
class ModelConfig:
    """The base model.

    Attributes:
        name: the group file, used in run names.
        hub_id: repository on the Hugging Face hub.
        revision: its commit; a branch name would not pin anything.
        path: a local folder (config.json, weights as safetensors, tokenizer.json) to use instead of the hub.
        parameters: expected number of parameters, checked after loading; null to skip.
    """

    name: str
    hub_id: str | None
    revision: str | None
    path: str | None
    parameters: int | None

    def __post_init__(self) -> None:
        if self.path is None and (self.hub_id is None or self.revision is None):
            raise LodaError("model needs a path, or a hub_id and a revision; set model.path=FOLDER")
        if self.revision is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise LodaError(
                f"model.revision={self.revision!r} must be a commit's 40 hexadecimal digits: a branch moves on, "
                "and two runs of one name would have two bases"
            )


@dataclass(frozen=True)
class Recipe:
    """Settings of other groups that depend on the data set: those groups refer to them, nothing else does.

    Attributes:
        epochs, weight_decay, dropout, label_smoothing, length_penalty: hyper-parameters of LoRA's Table 11.
        stop: see `DecodeConfig`; here with a default, because runs of earlier versions do not have it.
    """

    epochs: int
    weight_decay: float
    dropout: float
    label_smoothing: float
    length_penalty: float
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetConfig:
    """The data set and how its output is scored.

    Attributes:
        name: a module in `loda/lab/data/`.
        variant: which form of the data set, where it has several (e2e: text or csv); null where it has one.
        path: a local folder with the original files instead of the download.
        max_length: longest row in tokens, context and completion together; longer rows are cut as in LoRA's code.
        protocol: post-processing and scoring: "e2e"; "webnlg" or "dart" as in LoRA's code; "dart_leaderboard" as on
            DART's leaderboard (see `eval/score/postprocess.py`).
        metrics: modules in `eval/metrics/`.
        recipe: see `Recipe`.
    """

    name: str
    variant: str | None
    path: str | None
    max_length: int
    protocol: str
    metrics: tuple[str, ...]
    recipe: Recipe

    def __post_init__(self) -> None:
        _one_of("dataset.protocol", self.protocol, ("e2e", "webnlg", "dart", "dart_leaderboard"))
        _at_least("dataset.max_length", self.max_length, 2)


@dataclass(frozen=True)
class OptimConfig:
    """LoRA's AdamW, its linear schedule, and how long to train (protocol: LoRA's Table 11 and README).

    Attributes:
        batch_size: rows of a batch, all processes together.
        accumulate: batches to one update, whose gradient is the mean of theirs. Steps count batches and the learning
            rate changes with every batch, as in LoRA's code; what is left over at the end of a run is not applied.
        schedule_epochs: epochs over which the learning rate falls to 0. LoRA's code takes the whole run; with more
            than `epochs`, the run is the beginning of a longer one.
        keep_epochs: epochs whose adapter is kept and scored beside that of the last one, where the run reaches
            them. The paper trains R- and S- variants for 10 epochs and takes the better of 5 and 10.
    """

    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    correct_bias: bool
    warmup_steps: int
    label_smoothing: float
    batch_size: int
    accumulate: int
    epochs: int
    schedule_epochs: int
    keep_epochs: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "epochs"):
            _at_least(f"optim.{name}", getattr(self, name), 1)
        for name in ("lr", "eps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise LodaError(f"optim.{name}={getattr(self, name)} must be positive and finite")
        for name in ("beta1", "beta2", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise LodaError(f"optim.{name}={getattr(self, name)} must lie in [0, 1)")
        _at_least("optim.warmup_steps", self.warmup_steps, 0)
        if not self.weight_decay >= 0:
            raise LodaError(f"optim.weight_decay={self.weight_decay} must not be negative")
        if self.schedule_epochs < self.epochs:
            raise LodaError(
                f"optim.schedule_epochs={self.schedule_epochs} ends before optim.epochs={self.epochs}; the learning "
                "rate would be 0 from there: raise the first or lower the second"
            )
        if any(epoch < 1 for epoch in self.keep_epochs):
            raise LodaError(f"optim.keep_epochs={list(self.keep_epochs)}: epochs count from 1")


@dataclass(frozen=True)
class TrainerConfig:
    """Where and how the loop runs.

    Attributes:
        device: "auto" (CUDA where there is one), "cuda" or "cpu".
        precision: "fp32" or "bf16" (autocast; adapters and optimiser stay fp32).
        activation_checkpointing: keep the input of each block alone and compute the rest again in the backward
            pass: the same numbers, a second forward pass, and 108 MiB of stored activations where there were 1364
            (GPT2-medium with LoRA, 8 rows of 73 tokens).
        order: "reference" is the sample order of LoRA's DistributedSampler with the run's seed, "bucketed" puts rows
            of like length together (see `loda.lab.training.sampler`).
        fast: lay the rows of a batch end to end instead of padding them, and compute GELU in one kernel (see
            `loda.lab.training.packing`): the same losses to rounding, but for dropout's noise.
        compile: let torch.compile write the kernels of the model; the first batches take minutes. Likewise the same
            losses but for dropout's noise.
        max_steps: stop after so many batches; the schedule ends there at the latest. null: all epochs.
        threads: CPU threads; null leaves torch's choice.
        log_every: batches between two lines of the journal.
        save_minutes: how much of a training may be lost: its state is saved as often;
            with a default, because runs of earlier versions do not have it.
    """

    device: str
    precision: str
    activation_checkpointing: bool
    order: str
    fast: bool
    compile: bool
    max_steps: int | None
    threads: int | None
    log_every: int
    save_minutes: float = 15.0

    def __post_init__(self) -> None:
        _one_of("trainer.device", self.device, ("auto", "cuda", "cpu"))
        _one_of("trainer.precision", self.precision, ("fp32", "bf16"))
        _one_of("trainer.order", self.order, tuple(ORDERS))
        _at_least("trainer.log_every", self.log_every, 1)
        if not self.save_minutes >= 0:
            raise LodaError(f"trainer.save_minutes={self.save_minutes} must not be negative; 0 saves after every batch")
        for name in ("max_steps", "threads"):
            value = getattr(self, name)
            if value is not None:
                _at_least(f"trainer.{name}", value, 1)


@dataclass(frozen=True)
class PromptConfig:
    """How a context is put to the model: as in training, or within a prompt for in-context learning.

    Attributes:
        template: the text that the model is given; `{context}` stands for the context.
        colon: what stands between key and value; the data sets write " : ".
        separator: whether the end-of-text token follows, as it does in training.
    """

    template: str
    colon: str
    separator: bool

    def __post_init__(self) -> None:
        if self.template.count("{context}") != 1:
            raise LodaError("decode.prompt.template must contain {context} exactly once; it stands for the context")

    def render(self, context: str) -> str:
        """The text of one context."""
        return self.template.replace("{context}", context.replace(" : ", self.colon))


@dataclass(frozen=True)
class DecodeConfig:
    """Beam search (protocol: LoRA's gpt2_beam.py).

    Attributes:
        prompt: see `PromptConfig`.
        split: which split is decoded and scored; test_seen and test_unseen are the parts of WebNLG's.
        stop: texts that end a hypothesis; each must be one token of the vocabulary. "<|endoftext|>" is the base's
            own end-of-text token, whatever it calls it.
        batch_size: contexts decoded together; it does not change the result.
    """

    prompt: PromptConfig
    split: str
    num_beams: int
    max_new_tokens: int
    min_length: int
    length_penalty: float
    no_repeat_ngram_size: int
    stop: tuple[str, ...]
    batch_size: int

    def __post_init__(self) -> None:
        _one_of("decode.split", self.split, (*SPLITS, *PARTS))
        for name in ("num_beams", "max_new_tokens", "batch_size"):
            _at_least(f"decode.{name}", getattr(self, name), 1)
        for name in ("min_length", "no_repeat_ngram_size"):
            _at_least(f"decode.{name}", getattr(self, name), 0)
        if self.min_length > self.max_new_tokens:
            raise LodaError(
                f"decode.min_length={self.min_length} exceeds decode.max_new_tokens={self.max_new_tokens}; lower it"
            )
        if not self.stop:
            raise LodaError("decode.stop is empty; name at least the end-of-text token")


@dataclass(frozen=True)
class LoggerConfig:
    """Where the journal goes beside its JSON lines: "none", "wandb" or "tensorboard".

    Attributes:
        name: which of them.
        project: of Weights & Biases.
        mode: of Weights & Biases; "offline" needs no account.

    Raises:
        LodaError: an unknown name or mode, or a package that is not installed.
    """

    name: str
    project: str
    mode: str

    def __post_init__(self) -> None:
        _one_of("logger.name", self.name, ("none", "wandb", "tensorboard"))
        if self.name != "none" and find_spec(self.name) is None:
            raise LodaError(f"logger={self.name} needs the package {self.name}; run `pip install {self.name}`")
        _one_of("logger.mode", self.mode, ("online", "offline"))


@dataclass(frozen=True)
class Experiment:
    """Everything that `python train.py ...` does, checked."""

    model: ModelConfig
    method: "LodaConfig"
    dataset: DatasetConfig
    optim: OptimConfig
    trainer: TrainerConfig
    decode: DecodeConfig
    logger: LoggerConfig
    seed: int
    outputs: str

    @property
    def adapter(self) -> str:
        """The name of the adapter."""
        return type(self.method.adapter).__module__.rpartition(".")[2]

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.adapter != "none"

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        if self.adapter == "prefix":
            for name, why in INCOMPATIBLE_WITH_PREFIX.items():
                if getattr(self.trainer, name):
                    raise LodaError(
                        f"trainer.{name}=true {why} the prefix of adapter=prefix stands in; set it to false"
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
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder), version_base="1.3"):
            return resolve(hydra_compose("train", overrides=list(overrides)))
    except HydraException as error:
        raise LodaError(f"the settings {' '.join(overrides)} do not compose: {_first_line(error)}") from error


def resolve(config: DictConfig) -> Experiment:
    """Turn a composed configuration into an `Experiment`.

    Raises:
        LodaError: an unknown key, a value of the wrong type, or one that breaks a rule.
    """
    try:
        groups: dict[str, Any] = {
            "model": _model(config),
            "dataset": _node(DatasetConfig, config, "dataset"),
            "optim": _node(OptimConfig, config, "optim"),
            "trainer": _node(TrainerConfig, config, "trainer"),
            "decode": _node(DecodeConfig, config, "decode"),
            "logger": _node(LoggerConfig, config, "logger"),
            "seed": _typed("seed", config.seed, int),
            "outputs": _typed("outputs", config.outputs, str),
        }
        return Experiment(method=_method(config), **groups)
    except OmegaConfBaseException as error:
        raise LodaError(_first_line(error)) from error


def restore(settings: Mapping[str, Any]) -> Experiment:
    """The experiment that `experiment.json` describes.

    Raises:
        LodaError: settings that this version does not know, or lacks.
    """
    groups = {key: value for key, value in settings.items() if key != "method"}
    return resolve(OmegaConf.create(groups | dict(settings["method"])))


def _node(cls: type[Node], config: DictConfig, group: str) -> Node:
    return _structured(cls, _values(config, group), group)


def _model(config: DictConfig) -> ModelConfig:
    """The base model; with data of one's own, a folder is a base of one's own too, under the folder's name."""
    model = _node(ModelConfig, config, "model")
    if config.dataset.name != "jsonl" or model.path is None or model.hub_id is None:
        return model
    name = re.sub(r"[^\w.]+", "_", Path(model.path).resolve().name)
    return ModelConfig(name=name, hub_id=None, revision=None, path=model.path, parameters=None)


def _method(config: DictConfig) -> "LodaConfig":
    """The settings of the library, last, because they need torch, whose import takes longer than all the others."""
    from loda.config import LodaConfig

    return LodaConfig(
        adapter=_part(config, "adapter"),
        approx=_part(config, "approx"),
        slices=_names("slices", config.slices),
        # Not in the settings of runs that leave them at their defaults.
        targets=_names("targets", config.get("targets", ListConfig([]))),
        joint=_typed("joint", config.get("joint", False), bool),
    )


def _part(config: DictConfig, group: str) -> Any:
    from loda.config import part_class

    values = _values(config, group)
    return _structured(part_class(group, values.pop("name", None)), values, group)


def _values(config: DictConfig, group: str) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(config[group], resolve=True))


def _structured(cls: type[Node], values: Mapping[str, Any], where: str) -> Node:
    """Check names and types of `values` against the dataclass `cls`, one level at a time."""
    if not isinstance(values, Mapping):
        raise LodaError(f"{where}={values!r} must be a group of settings; set one of them, as {where}.NAME=VALUE")
    types = get_type_hints(cls)
    nested = {key for key in values if is_dataclass(types.get(key))}
    made = {key: _structured(types[key], values[key], f"{where}.{key}") for key in nested}
    try:
        schema: DictConfig = OmegaConf.structured(cls)
        flat: Any = OmegaConf.merge(schema, {key: value for key, value in values.items() if key not in nested})
        plain = {key: flat[key] for key in values if key not in nested}
    except OmegaConfBaseException as error:
        raise LodaError(f"{where}: {_first_line(error)}") from error
    lists = {key: tuple(value) for key, value in plain.items() if isinstance(value, ListConfig)}
    missing = [f.name for f in fields(cls) if _has_no_default(f) and f.name not in values]  # type: ignore[arg-type]
    if missing:
        raise LodaError(f"{where}.{missing[0]} has no value; give it as {where}.{missing[0]}=VALUE")
    return cls(**plain | lists | made)


def _has_no_default(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _names(setting: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, ListConfig):
        raise LodaError(f"{setting}={value!r} must be a list, such as {setting}=[q,v]")
    return tuple(value)


def _typed(name: str, value: object, kind: type[Node]) -> Node:
    if type(value) is not kind:
        raise LodaError(f"{name}={value!r} must be of type {kind.__name__}")
    return value


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise LodaError(f"{name}={value} must be at least {least}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise LodaError(f"{name}={value!r} is not one of {', '.join(allowed)}")
