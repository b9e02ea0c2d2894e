"""LoDA as a method of Hugging Face PEFT, registered by importing this module; `pip install -e '.[peft]'`.

    import loda.peft
    from peft import get_peft_model

    config = loda.peft.LodaConfig(variant="loda_plus", r=4, target_modules=["c_attn"], slices=("q", "v"))
    model = get_peft_model(model, config)

Everything else is PEFT's: saving and loading, several named adapters, transformers' `add_adapter`, `Trainer`. PEFT has
no plug-in mechanism, so a process that loads such an adapter must import this module first.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial, wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

import loda.config
from loda.adapters import LoRAConfig
from loda.approx import DenseConfig
from loda.approx.group import base_projections, check_approximation, fingerprint_of_targets
from loda.approx.quantized import keep_layout
from loda.architectures import ALL, QKV, block_of, ends_with, is_linear, layer_of
from loda.attention import find_attention
from loda.card import write_peft_card
from loda.errors import LodaError
from loda.interfaces import LinearAdapter, is_linear_adapter
from loda.targets import TargetModule, check_replaceable, check_slices, target_of

SUPPORTED = "0.21"
"""The release series of PEFT that this module is tested with; it uses PEFT's internals, which change."""


def _check_version() -> None:
    try:
        found = version("peft")
    except PackageNotFoundError as error:
        raise LodaError("loda.peft needs the package peft; run `pip install 'peft>=0.21,<0.22'`") from error
    if not found.startswith(f"{SUPPORTED}."):
        raise LodaError(
            f"loda.peft works with peft {SUPPORTED}.*, not {found}; run `pip install 'peft=={SUPPORTED}.*'`"
        )


_check_version()
from peft import PeftConfig, get_peft_model_state_dict  # noqa: E402
from peft.tuners.lora.model import _adapter_names_pre_forward_hook, _get_encoder  # noqa: E402
from peft.tuners.tuners_utils import (  # noqa: E402
    BaseTuner,
    BaseTunerLayer,
    _maybe_include_all_linear_layers,
    cast_adapter_dtype,
    check_adapters_to_merge,
)
from peft.utils import AuxiliaryTrainingWrapper, load_peft_weights, register_peft_method  # noqa: E402
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND  # noqa: E402
from peft.utils.integrations import skip_init_on_device  # noqa: E402
from peft.utils.peft_types import PeftType  # noqa: E402

T = TypeVar("T")
INSTEAD = {
    "lora_alpha": "write alpha",
    "lora_dropout": "write dropout",
    "init_lora_weights": "write init_weights",
    "target_parameters": (
        "LoDA adapts linear modules and not single parameters, such as the fused experts of a mixture; name modules "
        "in target_modules"
    ),
}
"""What to do instead of settings of PEFT's LoRA."""
OF_THE_ADAPTER = ("r", "alpha", "dropout", "rank_pattern", "alpha_pattern", "use_rslora", "init_weights")
"""The settings that the library's adapters have under the same name."""
BASE = "__base__"
"""PEFT's name, in `adapter_names`, for a row without an adapter."""


def _refuse_unknown_settings(cls: type[T]) -> type[T]:
    """Make the dataclass `cls` raise LodaError, and not TypeError, for a setting that it does not have.

    PEFT drops such settings of a saved adapter with a warning, but they may change the map.
    """
    made: Any = cls
    init = made.__init__

    @wraps(init)
    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807
        known = [f.name for f in fields(made)]
        for name in values:
            if name not in known:
                raise LodaError(f"{name} is not a setting; {INSTEAD.get(name, 'there are ' + ', '.join(known))}")
        init(self, *args, **values)

    made.__init__ = __init__
    return cls


@_refuse_unknown_settings
@dataclass
class LodaConfig(PeftConfig):  # type: ignore[misc]
    """Settings of a LoDA adapter in PEFT.

    Attributes:
        variant: "lora", "loda" or "loda_plus".
        r: width of the bottleneck.
        alpha: the update is scaled by alpha / r.
        rank_pattern, alpha_pattern: r and alpha of modules whose names match, as in PEFT.
        use_rslora: whether the update is scaled by alpha / sqrt(r) instead.
        init_weights: False starts B at random, so that the adapter is not the zero map; for tests.
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
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    init_weights: bool = True
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
        plain = {name: getattr(self, name) for name in OF_THE_ADAPTER}
        return cast(LoRAConfig, loda.config.from_plain("adapter", {"name": self.variant, **plain, **stacks}))

    @property
    def method(self) -> loda.config.LodaConfig:
        """The library's settings of adapter, approximation and slices."""
        approx = DenseConfig() if self.approx is None else loda.config.from_plain("approx", self.approx)
        return loda.config.LodaConfig(self.adapter, approx, tuple(self.slices), joint=self.joint)


class LodaLinear(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """h = base(x), then h[slice] += adapter(dropout(x)) for every adapted slice of every active adapter.

    Under an approximation the base layer is kept, so that `unload` gives it back; switching adapters off keeps the
    approximation. PEFT's "all-linear" recognises a layer that holds adapters by "Linear" in the name of its class.
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
        """Add the adapter `name`, in fp32 over a half-precision base; it starts as the zero map."""
        d_in, _ = self.target.shape
        adapted = {part: fused for part, fused in self.target.slices.items() if part in (*config.slices, ALL)}
        build = config.adapter.for_module(self.target.name).build
        self.loda_adapters[name] = nn.ModuleDict({part: build(d_in, fused.width) for part, fused in adapted.items()})
        self.loda_dropout[name] = nn.Dropout(config.dropout)
        self._move_adapter_to_device_of_base_layer(name)
        cast_adapter_dtype(self, name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def adapters(self, name: str) -> dict[str, nn.Module]:
        """The adapter `name` by slice; empty if this layer has none."""
        return dict(cast(nn.ModuleDict, self.loda_adapters[name]).items()) if name in self.loda_adapters else {}

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """Map (*, d_in) to (*, d_out), with the active adapters or, for each row, the one of `adapter_names`."""
        if adapter_names is not None and len(adapter_names) != len(x):
            raise LodaError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively; give one name for each row, and the number of beams "
                "as num_beams=..."
            )
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.merged:
            return cast(Tensor, self.base_layer(x, *args, **kwargs))
        h: Tensor = self._base(adapter_names or [])(x, *args, **kwargs)
        if self.disable_adapters:
            return h
        if not self.target.is_plain:
            h = h.clone()  # as in `loda.approx.quantized.QuantizedLinear`
        if adapter_names is None:
            for name in self.active_adapters:
                self._add(name, x, h)
        else:
            for name in dict.fromkeys(adapter_names):
                rows = [row for row, other in enumerate(adapter_names) if other == name]
                h[rows] = self._add(name, x[rows], h[rows])
        return h

    def _base(self, adapter_names: Sequence[str]) -> nn.Module:
        """Return what stands under these adapters, or under the active ones if there are none."""
        names = [name for name in adapter_names if name != BASE] or self.active_adapters
        return next((a for name, a in self.loda_approximations.items() if name in names), self.base_layer)

    def _add(self, name: str, x: Tensor, h: Tensor) -> Tensor:
        """Compute h[slice] += adapter(dropout(x)) in place for every slice of the adapter `name`, and return h."""
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
            ends = {name.removeprefix(f"{block_of(name)}.") for name in names}
            # Multimodal models have modules of these names elsewhere. PEFT takes whole names without regard to layers.
            others = [name for name, _ in self.model.named_modules() if name not in names]
            if any(ends_with(name, end) for name in others for end in ends):
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
                kept = [t for t in self._targets(peft_config, model) if t.adapted(peft_config.slices)]
                peft_config.target_modules = {target.name for target in kept}
        targets = self._targets(peft_config, model)
        if targets:  # if there are none, PEFT's own error says what is wrong with the names
            check_replaceable(model, targets)
            check_slices(model, targets, peft_config.slices, approximated=peft_config.approx is not None)
        if peft_config.approx is not None:
            self._prepare_approximation(peft_config, targets)

    def _prepare_approximation(self, peft_config: LodaConfig, targets: list[TargetModule]) -> None:
        if not targets:
            raise LodaError(f"target_modules={peft_config.target_modules} names nothing that could be approximated")
        approx = peft_config.method.approx
        if getattr(approx, "calibration", 0):
            raise LodaError(
                f"{approx} needs inputs of the model, which PEFT cannot give; use loda.inject, or leave them out"
            )
        check_approximation(targets, approx, peft_config.joint)
        found = fingerprint_of_targets(targets)
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

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Keep the adapter in fp32 over a half-precision base, as the layers made it, or cast it to the base's dtype.

        Transformers' `add_adapter`, which does not ask, thus gets what `get_peft_model` gives by default.
        """
        if autocast_adapter_dtype:
            super()._cast_adapter_dtype(adapter_name)
        else:
            for layer in self._layers():
                layer._move_adapter_to_device_of_base_layer(adapter_name)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names`, an adapter for each row, to the layers during a forward pass or `generate`."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        self._check_rows(names)
        # A decoder sees each row once for each beam, the encoder before it once.
        by_beam = [name for name in names for _ in range(kwargs.get("num_beams") or 1)]
        encoder = _get_encoder(self.model)
        in_encoder = set() if encoder is None else set(encoder.modules())
        with ExitStack() as hooks:
            for module in self.model.modules():
                if isinstance(module, (LodaLinear, AuxiliaryTrainingWrapper)):
                    rows = names if module in in_encoder else by_beam
                    hook = partial(_adapter_names_pre_forward_hook, adapter_names=rows)
                    hooks.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
            yield

    def _check_rows(self, adapter_names: Sequence[str]) -> None:
        """Raise LodaError where `adapter_names` cannot be used. The sentences begin as PEFT's do."""
        names = sorted({*adapter_names} - {BASE})
        unknown = [name for name in names if name not in self.peft_config]
        if unknown:
            raise LodaError(
                f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}; there are "
                f"{', '.join(self.peft_config)} and {BASE}"
            )
        if self.training:
            raise LodaError(
                "Cannot pass `adapter_names` when the model is in training mode. Call model.eval(), or train one "
                "adapter at a time"
            )
        if any(layer.merged for layer in self._layers()):
            raise LodaError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )
        for name in names:
            if self._base_of(name) != self._base_of(names[0]):
                raise LodaError(
                    f"adapter_names: {names[0]} and {name} stand over different approximations of the base, so one "
                    "batch cannot serve both; pass their rows separately"
                )

    def _base_of(self, name: str) -> tuple[Any, ...]:
        """What tells whether two adapters stand over the same base."""
        method = self.peft_config[name].method
        return method.approx, method.joint, [name in layer.loda_approximations for layer in self._layers()]

    def _layers(self) -> list[LodaLinear]:
        return [module for module in self.model.modules() if isinstance(module, LodaLinear)]

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
        layers = self._layers()
        for name in adapter_names or self.active_adapters:
            config = self.peft_config[name]
            adapters = [adapter for layer in layers for adapter in layer.adapters(name).values()]
            if config.approx is not None:
                raise LodaError(f"adapter {name} stands over an approximation and cannot be merged; use it as it is")
            if not all(map(is_linear_adapter, adapters)):
                raise LodaError(
                    f"adapter {name} ({config.variant}) is not linear, so no weight equals it and it cannot be merged; "
                    'use it as it is (only linear adapters such as variant="lora" merge)'
                )
            if not all(layer.target.is_plain for layer in layers):
                raise LodaError(
                    "an adapter over a quantised base cannot be merged: the sum would be rounded again; use it as it is"
                )
            self._check_not_tied([layer for layer in layers if layer.adapters(name)])

    def _check_not_tied(self, layers: Sequence[LodaLinear]) -> None:
        """Raise LodaError for a weight that the model uses elsewhere too, such as that of a tied `lm_head`."""
        parameters = list(self.model.named_parameters(remove_duplicate=False))
        for layer in layers:
            own = f"{layer.target.name}.base_layer.weight"
            others = [name for name, p in parameters if p is layer.base_layer.weight and name != own]
            if others:
                raise LodaError(
                    f"the weight of {layer.target.name} is {others[0]} too, which merging would change; use the "
                    "adapter as it is"
                )


def _of_the_map(config: LodaConfig) -> dict[str, Any]:
    """Return what changes the map and is not told by the shapes of the weights, with all defaults."""
    adapter = loda.config.to_plain(config.adapter)
    adapter = {name: value for name, value in adapter.items() if name not in ("name", "dropout", "init_weights")}
    own = {name: getattr(config, name) for name in ("variant", "joint")}
    approx = None if config.approx is None else loda.config.to_plain(config.method.approx)
    base = config.base_fingerprint
    return own | adapter | {"slices": sorted(config.slices), "approx": approx, "base_fingerprint": base}


@torch.no_grad()
def hotswap_adapter(
    model: nn.Module, model_name_or_path: str, adapter_name: str, torch_device: str | None = None, **kwargs: Any
) -> None:
    """Replace the weights of the adapter `adapter_name` by those of a saved one, in place.

    No module and no tensor is exchanged, so a compiled model need not be compiled again. The function has the arguments
    of `peft.utils.hotswap.hotswap_adapter`, which is for LoRA alone.

    Raises:
        LodaError: no such adapter, a merged one, or a saved adapter with other settings or shapes. The model is
            unchanged.
    """
    configs = cast(Mapping[str, PeftConfig], model.peft_config)
    if adapter_name not in configs:
        raise LodaError(f"adapter_name={adapter_name!r} is not an adapter of the model; it has {', '.join(configs)}")
    if any(adapter_name in m.merged_adapters for m in model.modules() if isinstance(m, LodaLinear)):
        raise LodaError(f"adapter {adapter_name} is merged into the base; call unmerge_adapter() before a swap")
    config = PeftConfig.from_pretrained(model_name_or_path, **kwargs)
    if not isinstance(config, LodaConfig):
        raise LodaError(f"{model_name_or_path} holds an adapter of the type {config.peft_type}, not LODA; name another")
    settings = [_of_the_map(cast(LodaConfig, c)) for c in (configs[adapter_name], config)]
    for name in dict.fromkeys(name for each in settings for name in each):
        old, new = (each.get(name) for each in settings)
        if old != new:
            raise LodaError(
                f"{name}={new!r} of the saved adapter is {old!r} in the model, so it cannot be swapped in; load it "
                "with model.load_adapter"
            )
    saved = load_peft_weights(model_name_or_path, device=torch_device, **kwargs)
    held = get_peft_model_state_dict(model, adapter_name=adapter_name, unwrap_compiled=True)
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (saved, held)]
    if shapes[0] != shapes[1]:
        name = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())[0]
        raise LodaError(
            f"{name} has the shape {shapes[0].get(name)} in the saved adapter and {shapes[1].get(name)} in the model, "
            "so it cannot be swapped in; load it with model.load_adapter"
        )
    for name, tensor in held.items():
        tensor.copy_(saved[name])


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
