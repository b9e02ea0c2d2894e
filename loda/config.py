"""LodaConfig: which adapter, on which slices, over which base projection; to and from plain data.

An adapter or approximation is written as `{"name": NAME, **settings}`. There is no registry: `known` imports the files
of `loda/adapters/` or `loda/approx/` and takes the settings classes that define `name`.
"""

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SkipValidation, ValidationInfo

import loda.adapters
import loda.approx
from loda.approx.dense import DenseConfig
from loda.architectures import ALL
from loda.errors import LodaError
from loda.interfaces import AdapterConfig, ApproxConfig
from loda.settings import UNLESS_DEFAULT, Names, load, settings

GROUPS = {"adapter": loda.adapters, "approx": loda.approx}


def _read(group: str, kind: type) -> BeforeValidator:
    """Accept settings of `group`, which have the protocol `kind`, or the plain data of such settings."""

    def read(value: Any) -> Any:
        if isinstance(value, Mapping):
            return from_plain(group, value)
        if isinstance(value, type) or not isinstance(value, kind):
            raise LodaError(f"{group}={value!r} is not the settings of one of {', '.join(known(group))}")
        return value

    return BeforeValidator(read)


def _check_names(value: Any, info: ValidationInfo) -> Any:
    """Accept distinct ends of names, or a regular expression."""
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise LodaError(f"{info.field_name}={value!r} is no regular expression ({error}); correct it") from None
    elif not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name for name in value):
        raise LodaError(f"{info.field_name}={value!r} must be ends of names of modules, or a regular expression")
    elif len(set(value)) != len(value):
        raise LodaError(f"{info.field_name}={value!r} must name each module once, by the end of its name")
    return value


NamesOrPattern = Annotated[Names | str, BeforeValidator(_check_names)]
"""Ends of names of modules, or a regular expression of whole names."""

Layers = Annotated[tuple[int, ...], Field(strict=False), BeforeValidator(lambda v: (v,) if type(v) is int else v)]
"""Numbers of layers, or one number."""


@settings
class LodaConfig:
    """One method of the paper: an adapter, the slices that it adapts, and the approximation of W_proj under it.

    Attributes:
        adapter: the settings of an adapter, for example `LoDAPlus(r=4)`.
        approx: the settings of an approximation; by default W_proj stays as it is.
        slices: which of q, k, v get an adapter. Adapters that do not stand beside projections (fine-tuning of blocks,
            `lin`, `houlsby`, `prefix`) ignore it.
        targets: ends of the names of the linear modules to adapt instead of attention's projections, for example
            ("c_attn", "c_proj", "c_fc"), or a regular expression of whole names, as PEFT's `target_modules`. Of
            attention's projections the `slices` are adapted, of other modules all columns. In an unknown architecture,
            where attention's projections are unknown too, give slices=("all",). "all" approximates every linear module
            of the blocks, and adapts those outside attention only if "all" is among the slices.
        exclude_modules: ends of names or a regular expression, for modules to leave out, as in PEFT.
        layers_to_transform: the numbers of the layers to adapt, or one number, as in PEFT; by default all.
        joint: whether models with three modules for q, k and v have [W_q, W_k, W_v] approximated together, as in the
            paper, and gate and up of a gated MLP too. Each module then has its columns of the result, and x W_A is
            computed once for all. By default each weight is approximated alone.
        modules_to_save: ends of the names of modules that are trained whole beside the adapter, as copies, and saved
            with it. None means the head of a model that is not a language model, such as `score` of
            LlamaForSequenceClassification, which is random before training; () means none.

    Raises:
        LodaError: no slice, a repeated name, or `joint` without an approximation.
    """

    adapter: Annotated[AdapterConfig, SkipValidation, _read("adapter", AdapterConfig)]
    approx: Annotated[ApproxConfig, SkipValidation, _read("approx", ApproxConfig)] = DenseConfig()
    slices: Names = ("q", "v")
    targets: NamesOrPattern = dataclasses.field(default=(), metadata=UNLESS_DEFAULT)
    exclude_modules: NamesOrPattern = dataclasses.field(default=(), metadata=UNLESS_DEFAULT)
    layers_to_transform: Layers = dataclasses.field(default=(), metadata=UNLESS_DEFAULT)
    joint: bool = dataclasses.field(default=False, metadata=UNLESS_DEFAULT)
    modules_to_save: Names | None = dataclasses.field(default=None, metadata=UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        if not self.slices or len(set(self.slices)) != len(self.slices):
            raise LodaError(
                f"slices={self.slices} must name each slice once and at least one; the paper adapts ('q', 'v')"
            )
        if self.layers_to_transform and isinstance(self.targets, str):
            raise LodaError(
                "layers_to_transform cannot be used with a regular expression, as in PEFT; let targets name the layers"
            )
        if (self.exclude_modules or self.layers_to_transform) and not hasattr(self.adapter, "build"):
            raise LodaError(
                f"adapter={self.adapter.name} stands beside no projection, so exclude_modules and layers_to_transform "
                "have no effect; leave them out"
            )
        if self.targets == ALL and self.approx.name == "dense" and ALL not in self.slices:
            raise LodaError(
                "targets=all leaves the modules outside attention as they are; set approx, add 'all' to the slices, or "
                "leave targets out"
            )
        if self.joint and self.approx.name == "dense":
            raise LodaError("joint=True needs an approximation; set approx, or leave joint out")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which `from_dict` reads (see `UNLESS_DEFAULT`)."""
        values = {name: getattr(self, name) for name in _written(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return plain | {"adapter": to_plain(self.adapter), "approx": to_plain(self.approx)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LodaConfig":
        """Read what `to_dict` wrote.

        Raises:
            LodaError: an unknown adapter, approximation, setting or value.
        """
        return load(cls, data)


def known(group: str) -> dict[str, type[Any]]:
    """Return the settings classes of `group`, "adapter" or "approx", by name."""
    package = GROUPS[group]
    found: dict[str, Any] = {}
    for file in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{file.name}")
        for value in vars(module).values():
            is_own_class = isinstance(value, type) and value.__module__ == module.__name__
            if is_own_class and dataclasses.is_dataclass(value) and "name" in vars(value):
                found[vars(value)["name"]] = value
    return dict(sorted(found.items()))


def to_plain(config: AdapterConfig | ApproxConfig) -> dict[str, Any]:
    """Return the plain data of an adapter or approximation: `{"name": NAME, **settings}` (see `UNLESS_DEFAULT`)."""
    plain = dataclasses.asdict(config)
    return {"name": config.name, **{name: plain[name] for name in _written(config)}}


def _written(config: Any) -> list[str]:
    """Return the names of the settings of `config` that plain data holds."""

    def default(field: dataclasses.Field[Any]) -> Any:
        return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()

    return [
        field.name
        for field in dataclasses.fields(config)
        if field.metadata != UNLESS_DEFAULT or getattr(config, field.name) != default(field)
    ]


def from_plain(group: str, data: Mapping[str, Any]) -> Any:
    """Read what `to_plain` wrote, for `group` "adapter" or "approx"; LodaError for anything else."""
    if not isinstance(data, Mapping):
        raise LodaError(f"{group}={data!r} must be a mapping of settings, for example {{'name': 'dense'}}")
    values, classes = dict(data), known(group)
    name = values.pop("name", None)
    if name not in list(classes):
        raise LodaError(f"{group}.name={name!r} is not one of {', '.join(classes)}")
    return load(classes[name], values, group)
