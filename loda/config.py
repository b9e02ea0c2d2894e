"""LodaConfig: which adapter, on which slices, over which frozen projection; to and from plain dictionaries.

A part is written as `{"name": file, **settings}`, and `name` is the file in `loda/adapters/` or `loda/approx/` that
exports its `Config`: there is no registry to keep.
"""

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import loda.adapters
import loda.approx
from loda.approx.dense import Config as Dense
from loda.errors import LodaError
from loda.interfaces import AdapterConfig, ApproxConfig

GROUPS = {"adapter": loda.adapters, "approx": loda.approx}


@dataclass(frozen=True)
class LodaConfig:
    """One method of the paper: an adapter, the slices it adapts, and the approximation of W_proj under it.

    Attributes:
        adapter: `Config` of a file in `loda/adapters/`, for example `LoDAPlus(r=4)`.
        approx: `Config` of a file in `loda/approx/`; the default keeps W_proj as it is.
        slices: which of q, k, v get an adapter. Methods that do not stand beside the projections (fine-tuning of whole
            blocks, bottleneck adapters, prefix) have no use for it.
        targets: ends of the names of the linear modules to adapt, in place of attention's projections, for example
            ("c_attn", "c_proj", "c_fc"). Of attention's projections the slices above are adapted, others as a whole.
            In an unknown architecture nobody knows which are attention's: slices=("whole",) says that none are.
        joint: whether the approximation is of [W_q, W_k, W_v], as in the paper, where they are three modules.
            Each has then its own columns of it; without, each is approximated for itself.

    Raises:
        LodaError: no slice, a name that comes twice, or `joint` without an approximation.
    """

    adapter: AdapterConfig
    approx: ApproxConfig = field(default_factory=Dense)
    slices: tuple[str, ...] = ("q", "v")
    targets: tuple[str, ...] = ()
    joint: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "slices", tuple(self.slices))
        if not self.slices or len(set(self.slices)) != len(self.slices):
            raise LodaError(
                f"slices={self.slices} must name each slice once and at least one; the paper adapts ('q', 'v')"
            )
        object.__setattr__(self, "targets", tuple(self.targets))
        if len(set(self.targets)) != len(self.targets) or not all(self.targets):
            raise LodaError(f"targets={self.targets} must name each module once, by the end of its name")
        if self.joint and part_name(self.approx) == "dense":
            raise LodaError("joint=true is about an approximation of q, k and v together; choose one, or leave it out")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`; `targets` and `joint` only where they are set."""
        plain: dict[str, Any] = {
            "adapter": part_to_dict(self.adapter),
            "approx": part_to_dict(self.approx),
            "slices": list(self.slices),
        }
        plain |= {"targets": list(self.targets)} if self.targets else {}
        return plain | ({"joint": True} if self.joint else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LodaConfig":
        """Read what `to_dict` wrote.

        Raises:
            LodaError: an unknown part, setting or value.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        if not set(data) <= set(names) or "adapter" not in data:
            raise LodaError(f"an adapter configuration has the keys {', '.join(names)}, not {sorted(data)}")
        return cls(
            adapter=part_from_dict("adapter", data["adapter"]),
            approx=part_from_dict("approx", data.get("approx", {"name": "dense"})),
            slices=tuple(data.get("slices", ("q", "v"))),
            targets=tuple(data.get("targets", ())),
            joint=data.get("joint", False),
        )


def part_names(group: str) -> list[str]:
    """The parts that exist: the files in the folder of `group`, "adapter" or "approx"."""
    package = GROUPS[group]
    modules = (importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__))
    return sorted(module.__name__.rpartition(".")[2] for module in modules if hasattr(module, "Config"))


def part_class(group: str, name: object) -> Any:
    """The `Config` class of the part `name` of `group`.

    Raises:
        LodaError: no such file.
    """
    if name not in part_names(group):
        raise LodaError(f"{group}.name={name!r} is not one of {', '.join(part_names(group))}")
    return importlib.import_module(f"{GROUPS[group].__name__}.{name}").Config


def part_name(config: object) -> str:
    """The file that a `Config` object comes from, which is its name."""
    return type(config).__module__.rpartition(".")[2]


def part_to_dict(config: Any) -> dict[str, Any]:
    """`{"name": file, **settings}`."""
    return {"name": part_name(config), **dataclasses.asdict(config)}


def part_from_dict(group: str, data: Mapping[str, Any]) -> Any:
    """The `Config` object that `data` describes.

    Raises:
        LodaError: an unknown part, setting or value, or a value of another type than the setting's.
    """
    settings = _mapping(data, group)
    return _build(part_class(group, settings.pop("name", None)), settings, group)


def _build(cls: Any, settings: Mapping[str, Any], where: str) -> Any:
    types = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for key, value in _mapping(settings, where).items():
        if key not in names:
            raise LodaError(f"{where}.{key} is not a setting; there are {', '.join(names) or 'none'}")
        kind = types[key]
        if dataclasses.is_dataclass(kind):
            values[key] = _build(kind, value, f"{where}.{key}")
        elif type(value) is kind or (kind is float and type(value) is int):
            values[key] = value
        else:
            raise LodaError(f"{where}.{key}={value!r} must be of type {kind.__name__}")
    return cls(**values)


def _mapping(data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise LodaError(f"{where}={data!r} must be a mapping of settings")
    return dict(data)
