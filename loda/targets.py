"""The linear modules to adapt: by default the attention projections, otherwise those that the settings name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loda.architectures import (
    ALL,
    block_of,
    ends_with,
    group_of,
    is_linear,
    layer_of,
    module_of,
    oriented,
    shape_of,
    slices_of,
)
from loda.attention import NAME_THEM, find_attention, with_stars
from loda.called import check_called
from loda.errors import LodaError
from loda.projection import FusedSlice


@dataclass(frozen=True)
class TargetModule:
    """A linear module to adapt or approximate.

    Attributes:
        name: the name of the module in the model.
        module: a `Conv1D` or an `nn.Linear`.
        slices: its slices by name, q, k and v, or `ALL`.
        group: what the modules that read the same input, q, k and v or the two of a gated MLP, have in common.
    """

    name: str
    module: nn.Module
    slices: dict[str, FusedSlice]
    group: str

    @property
    def is_plain(self) -> bool:
        """Whether the module holds W itself, as a parameter, and computes x W + b; quantised ones do not."""
        weight = dict(self.module.named_parameters(recurse=False)).get("weight")
        kind = type(self.module)
        # Falcon's own class computes x W + b too. Naming it spares importing the model.
        is_usual = kind.forward in (Conv1D.forward, nn.Linear.forward) or kind.__name__ == "FalconLinear"
        return is_usual and type(weight) is nn.Parameter

    @property
    def is_transposed(self) -> bool:
        """Whether the module is plain and holds W as (d_out, d_in), like `nn.Linear`."""
        return self.is_plain and not isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Tensor:
        """The weight (d_in, d_out) of a plain module."""
        return oriented(self.module, cast(Tensor, self.module.weight))

    @property
    def bias(self) -> Tensor | None:
        """The bias (d_out,) or None."""
        return cast(Tensor | None, self.module.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_out)."""
        return shape_of(self.module)

    def adapted(self, slices: Sequence[str], targets: Sequence[str] | str = ()) -> list[str]:
        """Return the slices that get an adapter, in the order of `slices`.

        A module outside attention that `targets` name is adapted whole in any case. Among all linears it is adapted if
        ALL is in `slices`.
        """
        wanted = slices if targets == ALL else (*slices, ALL)
        return [name for name in dict.fromkeys(wanted) if name in self.slices]


def find_targets(
    model: nn.Module,
    targets: Sequence[str] | str = (),
    exclude_modules: Sequence[str] | str = (),
    layers_to_transform: Sequence[int] = (),
) -> list[TargetModule]:
    """Return the attention projections of `model`, in order, or the linear modules that the settings name, as in PEFT.

    Args:
        model: the model, without adapters.
        targets: ends of names, a regular expression of whole names, or ALL for every linear module of the blocks;
            without, the attention projections.
        exclude_modules: the same, for modules to leave out.
        layers_to_transform: numbers of the layers to adapt; without, all.

    Raises:
        LodaError: an unknown architecture and no names, a name without a module, a parameter that is no linear module,
            a layer without a module, nothing left, or a module at two places.
    """
    linear = [name for name, module in model.named_modules() if is_linear(module)]
    if targets and targets != ALL:
        _check_parameters(model, targets, exclude_modules)
        _check_names("targets", targets, linear, model)
        names = [name for name in linear if _matches(name, targets)]
    else:
        names = list(find_attention(model))
    if targets == ALL:
        blocks = {block_of(name) for name in names}
        names = [name for name in linear if block_of(name) in blocks]
    for name in set(names) - set(linear):
        raise LodaError(f"{name} is a {type(module_of(model, name)).__name__}, no linear module; {NAME_THEM}")
    _check_names("exclude_modules", exclude_modules, names, model)
    names = [name for name in names if not _matches(name, exclude_modules)]
    layers = dict.fromkeys(layer_of(name) for name in names)
    missing = set(layers_to_transform) - layers.keys()
    if missing:
        others = ", ".join(str(layer) for layer in layers if layer is not None) or "none"
        raise LodaError(
            f"layers_to_transform: layer {min(missing)} holds none of the modules to adapt, but {others} do"
        )
    names = [name for name in names if not layers_to_transform or layer_of(name) in layers_to_transform]
    if not names:
        raise LodaError(f"exclude_modules={exclude_modules} leaves no module to adapt; exclude fewer")
    found = [target_of(model, name, model.get_submodule(name)) for name in names]
    check_replaceable(model, found)
    return found


def target_of(model: nn.Module, name: str, module: nn.Module) -> TargetModule:
    """Return the linear `module` called `name` in `model`, with its slices.

    A module that is no attention projection, or whose columns do not fit its layout, has the one slice `ALL`.
    """
    d_out = shape_of(module)[1]
    slices = slices_of(model, name, d_out)
    if slices:
        return TargetModule(name, module, slices, group_of(name, is_attention=True))
    return TargetModule(name, module, {ALL: FusedSlice(0, d_out)}, group_of(name, is_attention=False))


def check_replaceable(model: nn.Module, targets: Sequence[TargetModule]) -> None:
    """Raise LodaError for a target that the model holds at two places, because only one would be replaced, or that it
    does not call.
    """
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for target in targets:
        if len(names[id(target.module)]) > 1:
            raise LodaError(
                f"{' and '.join(names[id(target.module)])} are one module, so it cannot be adapted; copy it"
            )
    check_called(model, [target.name for target in targets])


def check_slices(model: nn.Module, targets: Sequence[TargetModule], slices: Sequence[str], approximated: bool) -> None:
    """Check that every module of `targets`, which the user named, has a slice in `slices`.

    Raises:
        LodaError: slices of attention in an unknown architecture, or a target without any of the slices. The latter is
            allowed beside other targets if it is `approximated` with them.
    """
    whole = [target.name for target in targets if ALL in target.slices]
    if whole and ALL not in slices:
        try:
            find_attention(model)
        except LodaError as error:
            raise LodaError(f"slices={tuple(slices)} of {whole[0]}: {error}") from None
    bare = [target for target in targets if not target.adapted(slices)]
    if bare and not (approximated and len(bare) < len(targets)):
        raise LodaError(
            f"targets name {bare[0].name}, which is {', '.join(bare[0].slices)}; slices={tuple(slices)} would leave it "
            "without an adapter: add to the slices, or leave it out of the targets"
        )


def _matches(name: str, wanted: Sequence[str] | str) -> bool:
    """Whether `name` is among `wanted`: ends of names, or a regular expression of the whole name."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(ends_with(name, ending) for ending in wanted)


def _check_names(setting: str, wanted: Sequence[str] | str, names: Sequence[str], model: nn.Module) -> None:
    """Raise LodaError if one of `wanted` matches none of the modules `names`."""
    for one in (wanted,) if isinstance(wanted, str) else [(ending,) for ending in wanted]:
        if one and not any(_matches(name, one) for name in names):
            label = f"{one!r} (a text is a pattern of the whole name)" if isinstance(one, str) else f"*.{one[0]}"
            raise LodaError(
                f"{setting}: no linear module named {label} was found in this model; "
                f"its linear modules are {', '.join(_linear_names(model)) or 'none'}"
            )


def _check_parameters(model: nn.Module, targets: Sequence[str] | str, exclude_modules: Sequence[str] | str) -> None:
    """Raise LodaError if `targets` name a parameter that holds several matrices, as fused experts do."""
    for name, parameter in model.named_parameters():
        names = (name, name.rpartition(".")[0])
        named = [any(_matches(n, wanted) for n in names) for wanted in (targets, exclude_modules)]
        if parameter.ndim > 2 and named == [True, False]:
            raise LodaError(
                f"targets name {name}, a parameter of shape {tuple(parameter.shape)} and no linear module, as the "
                "experts of a mixture are; LoDA adapts linear modules: name others, or add to exclude_modules"
            )


def _linear_names(model: nn.Module) -> list[str]:
    """Return the distinct names of the linear modules, with * for numbers."""
    return with_stars(name for name, module in model.named_modules() if is_linear(module))
