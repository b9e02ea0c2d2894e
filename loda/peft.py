"""LoDA as a method of Hugging Face PEFT, registered by importing this module; `pip install 'loda[peft]'`.

    import loda.peft
    from peft import get_peft_model

    config = loda.peft.LodaConfig(variant="loda_plus", r=4, target_modules=["c_attn"], slices=("q", "v"))
    model = get_peft_model(model, config)

From there everything is PEFT's: saving and loading, several named adapters, transformers' `add_adapter`, `Trainer`. The
mathematics is the library's own; a layer here only says which adapter stands beside which columns of which module. Two
things differ from `loda.inject`: the base layer is kept under an approximation, so that adapters can be switched off
and taken out, and its file is PEFT's.

A process that loads such an adapter has to import this module first, because PEFT has no plug-in mechanism: a method is
a member of an enumeration in its code.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch
from torch import Tensor, nn

import loda.config
from loda.adapters.bottleneck import BottleneckConfig
from loda.approx import Dense
from loda.approximation import approximate_targets, check_approximation
from loda.architectures import (
    PARTS,
    WHOLE,
    Target,
    architecture,
    check_places,
    check_slices,
    is_bare,
    is_linear,
    target_of,
)
from loda.config import part_class, part_from_dict, part_names
from loda.errors import LodaError
from loda.fingerprint import fingerprint_of
from loda.interfaces import ApproxConfig, LinearAdapter
from loda.linear import keep_layout

SUPPORTED = "0.21"
"""The release series of PEFT that this module is tested with; it builds on methods that others have not."""


def _check_version() -> None:
    try:
        found = version("peft")
    except PackageNotFoundError as error:
        raise LodaError("loda.peft needs the package peft; run `pip install 'loda[peft]'`") from error
    if not found.startswith(f"{SUPPORTED}."):
        raise LodaError(
            f"loda.peft works with peft {SUPPORTED}.*, not {found}; run `pip install 'peft=={SUPPORTED}.*'`"
        )


_check_version()
from peft import PeftConfig  # noqa: E402
from peft.tuners.tuners_utils import (  # noqa: E402
    BaseTuner,
    BaseTunerLayer,
    _maybe_include_all_linear_layers,
    check_adapters_to_merge,
)
from peft.utils import register_peft_method  # noqa: E402
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND  # noqa: E402
from peft.utils.peft_types import PeftType  # noqa: E402

_FROZEN = "loda_frozen"


@dataclass
class LodaConfig(PeftConfig):  # type: ignore[misc]
    """Settings of a LoDA adapter in PEFT.

    Attributes:
        variant: "lora", "loda" or "loda_plus": a file in `loda/adapters/` with a bottleneck.
        r: width of the bottleneck.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the adapters of a module; one mask for all its slices.
        f1: settings of f1 that differ from the defaults, such as {"order": "norm-linear-activation"}.
        f2: the same for f2, of loda_plus.
        slices: which of q, k, v are adapted: in a module that holds all three, only these columns; among three
            modules, only these. Other modules are adapted as a whole, in a model of unknown architecture only where
            "whole" is among the slices.
        target_modules: as everywhere in PEFT; None: the projections of the architecture (see `loda.architectures`).
        exclude_modules, layers_to_transform, layers_pattern, modules_to_save: as everywhere in PEFT.
        approx: an approximation of the frozen weight of the target modules, for example {"name": "low_rank", "rank":
            300}, also of those that have no adapter, as k's. The adapter's file holds this recipe and not the
            approximated weight, which loading computes again.
        joint: whether it is of [W_q, W_k, W_v] where they are three modules, as in `loda.LodaConfig`.
        base_fingerprint: of the weights that were approximated, filled in; another base is refused.

    Raises:
        LodaError: an unknown variant, slice, setting or value.
    """

    variant: str = "loda_plus"
    r: int = 4
    alpha: float = 32.0
    dropout: float = 0.0
    f1: dict[str, Any] | None = None
    f2: dict[str, Any] | None = None
    slices: Sequence[str] = ("q", "v")
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    approx: dict[str, Any] | None = None
    joint: bool = False
    base_fingerprint: str | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.LODA
        self.slices = list(self.slices)
        known = (*PARTS, WHOLE)
        if not self.slices or not set(self.slices) <= set(known) or len(set(self.slices)) < len(self.slices):
            raise LodaError(f"slices={self.slices} must name each of its slices once, out of {', '.join(known)}")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        # The library's own checks.
        _ = self.method

    @property
    def adapter(self) -> BottleneckConfig:
        """The library's own settings of the adapter."""
        variants = [name for name in part_names("adapter") if issubclass(part_class("adapter", name), BottleneckConfig)]
        if self.variant not in variants:
            raise LodaError(f"variant={self.variant!r} is not one of {', '.join(variants)}")
        stacks = {name: getattr(self, name) for name in ("f1", "f2") if getattr(self, name) is not None}
        plain = {"name": self.variant, "r": self.r, "alpha": self.alpha, "dropout": self.dropout, **stacks}
        return cast(BottleneckConfig, part_from_dict("adapter", plain))

    @property
    def method(self) -> loda.config.LodaConfig:
        """The library's own settings of adapter, approximation and slices."""
        approx = Dense() if self.approx is None else part_from_dict("approx", self.approx)
        return loda.config.LodaConfig(self.adapter, approx, tuple(self.slices), joint=self.joint)


class Approximation:
    """The approximation of one layer under one adapter; its module is made when it is first used.

    PEFT makes modules without weights where it is asked to save memory, and never gives these any.
    """

    def __init__(self, approx: ApproxConfig, tensors: Mapping[str, Tensor]) -> None:
        self.approx = approx
        self.tensors = tensors
        self.module: nn.Module | None = None

    def over(self, bias: Tensor | None) -> nn.Module:
        """The module, which adds the base layer's bias."""
        if self.module is None:
            self.module = self.approx.build(self.tensors, bias)
        return self.module

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move or cast, as a module."""
        if self.module is not None:
            self.module._apply(fn)
        else:
            self.tensors = {name: fn(tensor) for name, tensor in self.tensors.items()}


class LodaLinear(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """h = base(x), and h[slice] += adapter(dropout(x)) for every adapted slice of every active adapter.

    PEFT's "all-linear" knows a layer that holds adapters already by "Linear" in the name of its class.
    """

    base_layer: nn.Module
    active_adapters: list[str]
    _move_adapter_to_device_of_base_layer: Callable[[str], None]
    _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]
    adapter_layer_names = tuple(f"loda_{part}" for part in (*PARTS, WHOLE))
    other_param_names = ("loda_dropout", _FROZEN)

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.base_layer = target.module
        self.slices = target.slices
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())
        self.loda_dropout = nn.ModuleDict()
        # Not modules of this one: they are computed from the base, and belong into no file.
        self.loda_frozen: dict[str, Approximation] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False

    @property
    def target(self) -> Target:
        """The base layer and its slices."""
        return Target("", self.base_layer, self.slices, None)

    def update_layer(self, name: str, config: LodaConfig) -> None:
        """Add the adapter `name`; it starts as the zero map."""
        d_in, _ = self.target.shape
        for part, columns in self.slices.items():
            if part in (*config.slices, WHOLE):
                self._by_part(part)[name] = config.adapter.build(d_in, columns.width)
        self.loda_dropout[name] = nn.Dropout(config.dropout)
        self._move_adapter_to_device_of_base_layer(name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def adapters(self, name: str) -> dict[str, nn.Module]:
        """The adapter `name` of each slice that has one."""
        found = {part: self._by_part(part) for part in self.slices}
        return {part: by_name[name] for part, by_name in found.items() if name in by_name}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return cast(Tensor, self.base_layer(x, *args, **kwargs))
        h = self._frozen_map(x, *args, **kwargs)
        for name in self.active_adapters:
            adapters = self.adapters(name)
            if adapters:
                dropped = self.loda_dropout[name](x)
                for part, adapter in adapters.items():
                    dtype = next(adapter.parameters()).dtype
                    self.slices[part].add_(h, adapter(self._cast_input_dtype(dropped, dtype)))
        return h

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make these adapters the active ones.

        Raises:
            LodaError: several, of which one stands on an approximation: they would need different bases.
        """
        _check_one_base(adapter_names, self.loda_frozen)
        super().set_adapter(adapter_names, inference_mode)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add linear adapters to the base layer's weight, in place."""
        for name in check_adapters_to_merge(self, adapter_names):
            if self.adapters(name):
                weight = self._changed_weight(name, 1.0)
                if safe_merge and not weight.isfinite().all():
                    raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
                self.target.weight.copy_(weight)
                self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take merged adapters out of the base layer's weight again, to rounding."""
        while self.merged_adapters:
            self.target.weight.copy_(self._changed_weight(self.merged_adapters.pop(), -1.0))

    def _changed_weight(self, name: str, sign: float) -> Tensor:
        weight = self.target.weight.detach().clone()
        for part, adapter in self.adapters(name).items():
            self.slices[part].add_(weight, sign * cast(LinearAdapter, adapter).weight())
        return weight

    def _frozen_map(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        approximated = [self.loda_frozen[name] for name in self.active_adapters if name in self.loda_frozen]
        if approximated:
            return cast(Tensor, approximated[0].over(self.target.bias)(x))
        h: Tensor = self.base_layer(x, *args, **kwargs)
        # As in `loda.approx.dense.Kept`.
        return h if self.target.is_plain else h.clone()

    def _by_part(self, part: str) -> nn.ModuleDict:
        return cast(nn.ModuleDict, getattr(self, f"loda_{part}"))

    def _apply(self, fn: Any, recurse: bool = True) -> "LodaLinear":
        for frozen in self.loda_frozen.values():
            frozen.apply(fn)
        return cast(LodaLinear, super()._apply(fn, recurse))


def _check_one_base(names: str | list[str], approximated: Collection[str]) -> None:
    """Raise LodaError for several adapters of which one is among those over an approximation."""
    together = [name for name in names if name in approximated and not isinstance(names, str)]
    if together and len(names) > 1:
        raise LodaError(
            f"adapters {', '.join(names)} cannot be active together: {together[0]} was trained over an "
            "approximation of the base; activate one of them"
        )


class LodaModel(BaseTuner):  # type: ignore[misc]
    """A model with LoDA adapters, as `get_peft_model` makes it."""

    prefix = "loda_"
    tuner_layer_cls = LodaLinear
    target_module_mapping: Mapping[str, list[str]] = {}

    def _prepare_adapter_config(self, peft_config: LodaConfig, model_config: Mapping[str, Any]) -> LodaConfig:
        """Fill in the projections of the architecture."""
        if peft_config.target_modules is None:
            names = architecture(self.model).projections
            # An approximation is of all three.
            some = len(names) == len(PARTS) and peft_config.approx is None
            chosen = [n for n, part in zip(names, PARTS, strict=False) if not some or part in peft_config.slices]
            peft_config.target_modules = set(chosen)
        return peft_config

    def _prepare_model(self, peft_config: LodaConfig, model: nn.Module) -> None:
        """Check everything before anything is replaced."""
        keep_layout(model)
        self._expand(peft_config, model)
        targets = self._targets(peft_config, model)
        approximated = peft_config.approx is not None
        if not targets:
            if approximated:
                raise LodaError(f"target_modules={peft_config.target_modules} names nothing that could be approximated")
            return  # PEFT says in its own words what is wrong with the names
        check_places(model, targets)
        check_slices(model, targets, peft_config.slices, approximated)
        if not approximated:
            return
        check_approximation(targets, peft_config.method.approx, peft_config.joint)
        found = fingerprint_of({target.name: target.weight for target in targets})
        if peft_config.base_fingerprint not in (None, found):
            raise LodaError(
                f"this configuration is of an adapter over another base (fingerprint "
                f"{str(peft_config.base_fingerprint)[:12]}, this one has {found[:12]}); load the base it was trained "
                "on, in the same dtype, or, for a new adapter, make a new configuration"
            )
        peft_config.base_fingerprint = found

    def _expand(self, peft_config: LodaConfig, model: nn.Module) -> None:
        """Replace PEFT's "all-linear" by the names of all linear modules that the slices do not leave bare."""
        if str(peft_config.target_modules).lower() == INCLUDE_LINEAR_LAYERS_SHORTHAND:
            _maybe_include_all_linear_layers(peft_config, model)
            kept = (t for t in self._targets(peft_config, model) if not is_bare(t, peft_config.slices))
            if peft_config.approx is None:
                peft_config.target_modules = {target.name for target in kept}

    def _targets(self, peft_config: LodaConfig, model: nn.Module) -> list[Target]:
        """The base layers that `peft_config` means, whether they hold other adapters already or not.

        Raises:
            LodaError: one that is not linear.
        """
        targets = []
        layers = [f"{name}." for name, module in model.named_modules() if isinstance(module, LodaLinear)]
        for name, module in model.named_modules():
            if name.startswith(tuple(layers)) or not self._check_target_module_exists(peft_config, name):
                continue
            base = module.base_layer if isinstance(module, LodaLinear) else module
            if not is_linear(base):
                raise LodaError(f"{name} is a {type(base).__name__}; LoDA adapts linear modules alone")
            targets.append(target_of(model, name, base))
        return targets

    def _create_and_replace(
        self,
        peft_config: LodaConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional: Any,
    ) -> None:
        """Add the adapter to the layer in the place of `target`."""
        layer = target
        if not isinstance(layer, LodaLinear):
            layer = LodaLinear(target_of(self.model, current_key, target))
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, peft_config)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """PEFT's own rule looks for the name in the last places alone."""
        return re.sub(rf"(\.{cls.prefix}[^.]*)\.{re.escape(adapter_name)}\.", r"\1.", key)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Create the adapter, and the approximation under it."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        if config.approx is not None:
            approx = config.method.approx
            for name, tensors in approximate_targets(self._targets(config, model), approx, config.joint).items():
                cast(LodaLinear, model.get_submodule(name)).loda_frozen[adapter_name] = Approximation(approx, tensors)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Make these adapters the active ones.

        Raises:
            LodaError: as for the layers; nothing was touched.
        """
        _check_one_base(adapter_name, {name for name, config in self.peft_config.items() if config.approx is not None})
        super().set_adapter(adapter_name, inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Where PEFT would see to the arguments that are its own."""
        if kwargs.get("adapter_names") is not None:
            raise LodaError(
                "adapter_names=[...] asks for another adapter for each row, which LoDA has not; pass the rows of each "
                "adapter by themselves, after model.set_adapter(name)"
            )
        yield

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge linear adapters into the base.

        Raises:
            LodaError: as for `loda.merge`; nothing was touched.
        """
        self._refuse_merging(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._refuse_merging(adapter_names)
        return cast(nn.Module, super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names))

    def _refuse_merging(self, adapter_names: list[str] | None) -> None:
        for name in adapter_names or self.active_adapters:
            config = self.peft_config[name]
            if config.approx is not None:
                raise LodaError(f"adapter {name} stands over an approximation, so it cannot be merged; use it as it is")
            layers = [layer for layer in self.model.modules() if isinstance(layer, LodaLinear)]
            if not all(isinstance(a, LinearAdapter) for layer in layers for a in layer.adapters(name).values()):
                raise LodaError(
                    f"adapter {name} ({config.variant}) is not linear, so no weight equals it and it cannot be merged; "
                    'use it as it is (only linear adapters such as variant="lora" merge)'
                )
            if not all(layer.target.is_plain for layer in layers):
                raise LodaError("an adapter over a quantised base cannot be merged: the sum would be rounded again")


def _register() -> None:
    """Make "LODA" a member of PEFT's enumeration of methods, which `register_peft_method` asks for."""
    if "LODA" in PeftType.__members__:
        return
    member = str.__new__(PeftType, "LODA")
    member._name_ = member._value_ = "LODA"
    setattr(PeftType, "LODA", member)  # noqa: B010  mypy would look for the member in the class
    PeftType._member_names_.append("LODA")
    PeftType._member_map_["LODA"] = PeftType._value2member_map_["LODA"] = member
    register_peft_method(name="loda", config_cls=LodaConfig, model_cls=LodaModel)


_register()
