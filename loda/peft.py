"""LoDA as a method of Hugging Face PEFT, registered by importing this module; `pip install 'loda[peft]'`.

    import loda.peft
    from peft import get_peft_model

    config = loda.peft.LodaConfig(variant="loda_plus", r=4, target_modules=["c_attn"], slices=("q", "v"))
    model = get_peft_model(model, config)

Everything else is PEFT's: saving and loading, several named adapters, transformers' `add_adapter`, `Trainer`. PEFT has
no plug-in mechanism, so a process that loads such an adapter must import this module first.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import loda.config
from loda.adapters import LoRAConfig
from loda.approx import DenseConfig
from loda.approx.group import base_projections, check_approximation
from loda.approx.quantized import keep_layout
from loda.architectures import (
    ALL,
    QKV,
    TargetModule,
    check_places,
    check_slices,
    find_attention,
    is_linear,
    layer_of,
    target_of,
)
from loda.card import write_peft_card
from loda.errors import LodaError
from loda.identity import fingerprint_of
from loda.interfaces import LinearAdapter

SUPPORTED = "0.21"
"""The release series of PEFT that this module is tested with; it uses PEFT's internals, which change."""


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
from peft.utils.integrations import skip_init_on_device  # noqa: E402
from peft.utils.peft_types import PeftType  # noqa: E402


@dataclass
class LodaConfig(PeftConfig):  # type: ignore[misc]
    """Settings of a LoDA adapter in PEFT.

    Attributes:
        variant: "lora", "loda" or "loda_plus".
        r: width of the bottleneck.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the adapters; one mask for all slices of a module.
        f1: settings of f1 that differ from the defaults, such as {"order": "norm-linear-activation"}.
        f2: the same for f2; only for loda_plus.
        slices: which of q, k, v are adapted. In a module that holds all three, only these columns are; of three
            modules, only these. Other modules are adapted as a whole; in an unknown architecture "all" must be among
            the slices.
        target_modules: as in PEFT; None means the attention projections of the architecture (`loda.architectures`).
        exclude_modules, layers_to_transform, layers_pattern, modules_to_save: as in PEFT.
        approx: an approximation of the frozen weights of all target modules, for example {"name": "low_rank", "rank":
            300}, also of those that get no adapter, such as k. The saved adapter holds these settings and not the
            approximated weights, which loading computes again.
        joint: whether [W_q, W_k, W_v] are approximated together where they are three modules, as in `loda.LodaConfig`.
        base_fingerprint: identifies the weights that were approximated; filled in. Another base is refused.

    Raises:
        LodaError: an unknown variant, slice or setting, or a value that breaks a rule.
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
    base_fingerprint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.LODA
        self.slices = list(self.slices)
        unknown = sorted(set(self.slices) - {*QKV, ALL})
        if unknown:
            raise LodaError(f"slices={self.slices}: {unknown[0]!r} is not one of {', '.join((*QKV, ALL))}")
        _ = self.method  # so that wrong settings are refused now

    def save_pretrained(self, save_directory: str, **settings: Any) -> None:
        """Write PEFT's adapter_config.json, and the model card that says what to import."""
        super().save_pretrained(save_directory, **settings)
        write_peft_card(Path(save_directory))

    @property
    def adapter(self) -> LoRAConfig:
        """The library's settings of the adapter."""
        variants = [name for name, cls in loda.config.known("adapter").items() if issubclass(cls, LoRAConfig)]
        if self.variant not in variants:
            raise LodaError(f"variant={self.variant!r} is not one of {', '.join(variants)}")
        stacks = {name: getattr(self, name) for name in ("f1", "f2") if getattr(self, name) is not None}
        plain = {"name": self.variant, "r": self.r, "alpha": self.alpha, "dropout": self.dropout, **stacks}
        return cast(LoRAConfig, loda.config.from_plain("adapter", plain))

    @property
    def method(self) -> loda.config.LodaConfig:
        """The library's settings of adapter, approximation and slices."""
        approx = DenseConfig() if self.approx is None else loda.config.from_plain("approx", self.approx)
        return loda.config.LodaConfig(self.adapter, approx, tuple(self.slices), joint=self.joint)


class LodaLinear(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """h = base(x), then h[slice] += adapter(dropout(x)) for every adapted slice of every active adapter.

    The base layer is kept under an approximation, so that adapters can be switched off and removed. PEFT's "all-linear"
    recognises a layer that holds adapters by "Linear" in the name of its class.
    """

    base_layer: nn.Module
    active_adapters: list[str]
    _move_adapter_to_device_of_base_layer: Callable[[str], None]
    _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]
    adapter_layer_names = ("loda_adapters",)
    other_param_names = ("loda_dropout", "loda_approximations")

    def __init__(self, target: TargetModule) -> None:
        super().__init__()
        self.target = target
        self.base_layer = target.module
        self.in_features, self.out_features = target.shape  # PEFT adds weight and bias
        self.loda_adapters = nn.ModuleDict()  # by adapter name, then by slice
        self.loda_dropout = nn.ModuleDict()
        # A plain dictionary: what is computed from the base is not saved, counted or deleted as the adapter's.
        self.loda_approximations: dict[str, nn.Module] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False

    def update_layer(self, name: str, config: LodaConfig) -> None:
        """Add the adapter `name`, which starts as the zero map."""
        d_in, _ = self.target.shape
        adapted = {part: fused for part, fused in self.target.slices.items() if part in (*config.slices, ALL)}
        build = config.adapter.build
        self.loda_adapters[name] = nn.ModuleDict({part: build(d_in, fused.width) for part, fused in adapted.items()})
        self.loda_dropout[name] = nn.Dropout(config.dropout)
        self._move_adapter_to_device_of_base_layer(name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def adapters(self, name: str) -> dict[str, nn.Module]:
        """The adapter `name` by slice; empty if this layer has none."""
        return dict(cast(nn.ModuleDict, self.loda_adapters[name]).items()) if name in self.loda_adapters else {}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return cast(Tensor, self.base_layer(x, *args, **kwargs))
        base = next((a for n, a in self.loda_approximations.items() if n in self.active_adapters), self.base_layer)
        h: Tensor = base(x, *args, **kwargs)
        if not self.target.is_plain:
            h = h.clone()  # as in `loda.approx.quantized.QuantizedLinear`
        for name in self.active_adapters:
            adapters = self.adapters(name)
            if adapters:
                dropped = self.loda_dropout[name](x)
                for part, adapter in adapters.items():
                    dtype = next(adapter.parameters()).dtype
                    self.target.slices[part].add_(h, adapter(self._cast_input_dtype(dropped, dtype)))
        return h

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate these adapters.

        Raises:
            LodaError: several adapters, one of them over an approximation: they would need different bases.
        """
        _check_one_base(adapter_names, self.loda_approximations)
        super().set_adapter(adapter_names, inference_mode)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add linear adapters to the weight of the base layer, in place."""
        for name in check_adapters_to_merge(self, adapter_names):
            if self.adapters(name):
                weight = self._changed_weight(name, 1.0)
                if safe_merge and not weight.isfinite().all():
                    raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
                self.target.weight.copy_(weight)
                self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract merged adapters from the weight of the base layer again, which restores it up to rounding."""
        while self.merged_adapters:
            self.target.weight.copy_(self._changed_weight(self.merged_adapters.pop(), -1.0))

    def _changed_weight(self, name: str, sign: float) -> Tensor:
        weight = self.target.weight.detach().clone()
        for part, adapter in self.adapters(name).items():
            self.target.slices[part].add_(weight, cast(Tensor, cast(LinearAdapter, adapter).weight()), sign)
        return weight

    def _apply(self, fn: Any, recurse: bool = True) -> "LodaLinear":
        """Move or cast the approximations too, which are not registered as modules."""
        for approximation in self.loda_approximations.values():
            approximation._apply(fn)
        return cast(LodaLinear, super()._apply(fn, recurse))


def _check_one_base(names: str | list[str], approximated: Collection[str]) -> None:
    """Raise LodaError for several adapters of which one is among the `approximated`."""
    together = [] if isinstance(names, str) else [name for name in names if name in approximated]
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
        """Fill in the attention projections: all three where they are approximated, else those of the slices."""
        if peft_config.target_modules is None:
            wanted = {*peft_config.slices} if peft_config.approx is None else {*QKV}
            names = {name for name, parts in find_attention(self.model).items() if wanted & {*parts}}
            ends = {re.sub(r".*\.\d+\.", "", name) for name in names}
            # Multimodal models have modules of these names elsewhere. PEFT takes whole names without regard to layers.
            if any(name not in names and name.endswith(tuple(ends)) for name, _ in self.model.named_modules()):
                layers = peft_config.layers_to_transform
                kept = layers if isinstance(layers, list) else [layers]
                ends = {name for name in names if layers is None or layer_of(name) in kept}
            peft_config.target_modules = ends
        return peft_config

    def _prepare_model(self, peft_config: LodaConfig, model: nn.Module) -> None:
        """Check everything before anything is replaced."""
        keep_layout(model)
        if str(peft_config.target_modules).lower() == INCLUDE_LINEAR_LAYERS_SHORTHAND:
            _maybe_include_all_linear_layers(peft_config, model)
            if peft_config.approx is None:
                kept = [t for t in self._targets(peft_config, model) if not t.is_bare(peft_config.slices)]
                peft_config.target_modules = {target.name for target in kept}
        targets = self._targets(peft_config, model)
        if targets:  # if there are none, PEFT's own error says what is wrong with the names
            check_places(model, targets)
            check_slices(model, targets, peft_config.slices, approximated=peft_config.approx is not None)
        if peft_config.approx is not None:
            self._prepare_approximation(peft_config, targets)

    def _prepare_approximation(self, peft_config: LodaConfig, targets: list[TargetModule]) -> None:
        if not targets:
            raise LodaError(f"target_modules={peft_config.target_modules} names nothing that could be approximated")
        check_approximation(targets, peft_config.method.approx, peft_config.joint)
        found = fingerprint_of({target.name: target.weight for target in targets})
        if peft_config.base_fingerprint not in (None, found):
            raise LodaError(
                f"the adapter was trained over another base (fingerprint {str(peft_config.base_fingerprint)[:12]}, "
                f"this one has {found[:12]}); load that base in the same dtype, or make a new configuration for a new "
                "adapter"
            )
        peft_config.base_fingerprint = found

    def _targets(self, peft_config: LodaConfig, model: nn.Module) -> list[TargetModule]:
        """Return the base layers that `peft_config` names, whether they hold other adapters already or not.

        Raises:
            LodaError: a module that is not linear.
        """
        targets = []
        layers = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, LodaLinear))
        for name, module in model.named_modules():
            if name.startswith(layers) or not self._check_target_module_exists(peft_config, name):
                continue
            base = module.base_layer if isinstance(module, LodaLinear) else module
            if not is_linear(base):
                raise LodaError(f"{name} is a {type(base).__name__}; LoDA adapts linear modules, so do not target it")
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
        """Remove the name where it stands here; PEFT's rule looks for it only at the end of the key."""
        return re.sub(rf"(\.{cls.prefix}[^.]*)\.{re.escape(adapter_name)}\.", r"\1.", key)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Create the adapter, and the approximation under it."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if self.peft_config[adapter_name].approx is not None:
            self._approximate(model, adapter_name)

    @skip_init_on_device  # type: ignore[untyped-decorator]
    def _approximate(self, model: nn.Module, adapter_name: str) -> None:
        """Compute the approximation, with weights also where PEFT creates modules without (`low_cpu_mem_usage`)."""
        config = self.peft_config[adapter_name]
        bases = base_projections(self._targets(config, model), config.method.approx, config.joint)
        for name, base in bases.items():
            cast(LodaLinear, model.get_submodule(name)).loda_approximations[adapter_name] = base

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate these adapters.

        Raises:
            LodaError: as for the layers. The model is unchanged.
        """
        _check_one_base(adapter_name, [name for name, c in self.peft_config.items() if c.approx is not None])
        super().set_adapter(adapter_name, inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse PEFT's argument `adapter_names` of the forward pass."""
        if kwargs.get("adapter_names") is not None:
            raise LodaError(
                "adapter_names=[...] asks for another adapter for each row, which LoDA does not support; pass the rows "
                "of each adapter separately, after model.set_adapter(name)"
            )
        yield

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge linear adapters into the base.

        Raises:
            LodaError: as for `loda.merge`. The model is unchanged.
        """
        self._check_mergeable(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(self, merge: bool = True, **settings: Any) -> nn.Module:
        if merge:
            self._check_mergeable(settings.get("adapter_names"))
        return cast(nn.Module, super()._unload_and_optionally_merge(merge, **settings))

    def _check_mergeable(self, adapter_names: list[str] | None) -> None:
        layers = [layer for layer in self.model.modules() if isinstance(layer, LodaLinear)]
        for name in adapter_names or self.active_adapters:
            config = self.peft_config[name]
            adapters = [adapter for layer in layers for adapter in layer.adapters(name).values()]
            if config.approx is not None:
                raise LodaError(f"adapter {name} stands over an approximation and cannot be merged; use it as it is")
            if not all(isinstance(a, LinearAdapter) and a.weight() is not None for a in adapters):
                raise LodaError(
                    f"adapter {name} ({config.variant}) is not linear, so no weight equals it and it cannot be merged; "
                    'use it as it is (only linear adapters such as variant="lora" merge)'
                )
            if not all(layer.target.is_plain for layer in layers):
                raise LodaError(
                    "an adapter over a quantised base cannot be merged: the sum would be rounded again; use it as it is"
                )


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
