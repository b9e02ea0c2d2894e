"""Put adapters into a model, take them out, merge them.

`inject` works in place and returns the model. It keeps the modules and parameters that it replaces in one attribute of
the model (an `AdapterState`), so `unload` always gives the base back.

An adapter trains modules of its own or parameters of the base. The latter are trained as copies.
"""

import copy
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from loda.adapters.insertion import insertions, remove_insertions
from loda.approx.dense import DenseLinear
from loda.approx.group import base_projections, check_approximation, state_dict
from loda.approx.quantized import QuantizedLinear, keep_layout
from loda.architectures import WHOLE, TargetModule, check_slices, find_targets, oriented
from loda.config import LodaConfig
from loda.errors import LodaError
from loda.interfaces import LinearAdapter
from loda.projection import AdaptedProjection, projections
from loda.state import (
    AdapterState,
    adapter_parameters,
    adapter_state,
    base_parameters,
    check_holds_no_adapters,
    forget,
    remember,
    state_of,
    trainable_parameters,
)

__all__ = [
    "adapter_parameters",
    "adapter_state",
    "approximate",
    "inject",
    "is_mergeable",
    "merge",
    "projections",
    "trainable_parameters",
    "unload",
]

Model = TypeVar("Model", bound=nn.Module)


def inject(model: Model, config: LodaConfig, approximation: Mapping[str, Tensor] | None = None) -> Model:
    """Replace the projections of `model` that `config` names by adapted ones, in place, and freeze everything else.

    Afterwards only the parameters of the adapter require gradients. Every adapter but the prefix starts as the zero
    map, so the model computes what it did before, or what the approximated model computes.

    Args:
        model: a model of an architecture in `loda.architectures`, or any with `config.targets`; without adapters.
        config: adapter, approximation and slices.
        approximation: the state dict that `loda.approximate` returned; without it the approximation is computed.

    Raises:
        LodaError: an unknown architecture, adapters already there, a slice that does not exist, settings or an
            approximation that do not fit the projections, or 4-bit weights that were used (see
            `loda.approx.quantized.keep_layout`). The model is unchanged.
    """
    check_holds_no_adapters(model)
    targets = _targets(model, config)
    config.adapter.check(model)
    bases = base_projections(targets, config.approx, config.joint, approximation)
    keep_layout(model)
    base = dict(model.named_parameters(remove_duplicate=False))
    trained_before = frozenset(trainable_parameters(model))
    model.requires_grad_(False)
    for target in targets:
        adapted = [name for name in dict.fromkeys((*config.slices, WHOLE)) if name in target.slices]
        projection = AdaptedProjection(bases[target.name], target.slices, target.shape[0], adapted)
        model.set_submodule(target.name, projection.train(target.module.training))
    frozen = {id(parameter) for parameter in model.parameters()}
    config.adapter.attach(model)
    trained = trainable_parameters(model)
    _train_copies(model, [parameter for parameter in trained.values() if id(parameter) in frozen])
    replaced = {target.name: target.module for target in targets}
    remember(model, AdapterState(config, base, replaced, trained_before, frozenset(trained)))
    return model


def approximate(model: nn.Module, config: LodaConfig) -> dict[str, Tensor]:
    """Return the approximation of every projection of `model` as one flat state dict, for `loda.inject`.

    The keys are `<module>.W_A` and so on; without an approximation (dense) the result is empty.

    Raises:
        LodaError: an unknown architecture, or settings that do not fit.
    """
    targets = _targets(model, config)
    if config.approx.name == "dense":
        return {}
    return state_dict(base_projections(targets, config.approx, config.joint))


def unload(model: Model) -> Model:
    """Take the adapters out of `model`, in place: it is the base model again, bit for bit, also after approximations.

    The base's modules come back on the device and in the dtype that the model has now.

    Raises:
        LodaError: the model holds no adapters.
    """
    attached, parameters = state_of(model), base_parameters(model)
    remove_insertions(model)
    for name, module in attached.replaced.items():
        model.set_submodule(name, module.train(model.get_submodule(name).training))
    for name, parameter in parameters.items():
        owner, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(owner), own_name, parameter)
    return forget(model)


@torch.no_grad()
def merge(model: Model) -> Model:
    """Add linear adapters to the weights that they stand beside, W + Delta W, in place: an ordinary model again.

    Every merged module has the class and memory layout of the base's module. Parameters of the base that were trained
    themselves (fine-tuning) stay as they are now.

    Raises:
        LodaError: no adapters, a non-linear or inserted adapter (no weight equals it), a quantised or tied weight, or
            an approximation under the adapter (the sum would be neither low-rank nor sparse). The model is unchanged.
    """
    refusal = _why_not_mergeable(model)
    if refusal:
        raise LodaError(refusal)
    for name, projection in projections(model).items():
        original, base = state_of(model).replaced[name], cast(DenseLinear, projection.base)
        weight = base.weight.clone()
        for part, adapter in projection.adapters.items():
            projection.slices[part].add_(weight, cast(Tensor, cast(LinearAdapter, adapter).weight()))
        # A copy of the original module in which the memo puts the merged weight in the place of the original one.
        memo: dict[int, object] = {id(original.weight): nn.Parameter(oriented(original, weight))}
        memo |= {} if base.bias is None else {id(original.bias): base.bias}
        model.set_submodule(name, copy.deepcopy(original, memo).train(projection.training))
    return forget(model)


def is_mergeable(model: nn.Module) -> bool:
    """Whether `merge` would succeed."""
    return _why_not_mergeable(model) is None


def _targets(model: nn.Module, config: LodaConfig) -> list[TargetModule]:
    """Return the modules that `config` is about, after checking that it fits them."""
    targets = find_targets(model, config.targets)
    if config.targets:
        check_slices(model, targets, config.slices, approximated=config.approx.name != "dense")
    else:
        slices = list(dict.fromkeys(name for target in targets for name in target.slices))
        missing = [name for name in config.slices if name not in slices]
        if missing:
            raise LodaError(
                f"slices={config.slices}: the model has no slice {missing[0]!r}, it has {', '.join(slices)}"
            )
    check_approximation(targets, config.approx, config.joint)
    return targets


def _train_copies(model: nn.Module, originals: list[nn.Parameter]) -> None:
    """Put copies in the place of `originals`, one for all modules that share a parameter."""
    copies = {id(original): nn.Parameter(original.detach().clone()) for original in originals}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in copies:
                setattr(module, name, copies[id(parameter)])


def _why_not_mergeable(model: nn.Module) -> str | None:
    attached = state_of(model)
    adapter, approx = attached.config.adapter.name, attached.config.approx.name
    if approx != "dense":
        return (
            f"an adapter over approx={approx} cannot be merged: the sum would no longer be {approx}; "
            "use the model as it is"
        )
    for name, module in attached.replaced.items():
        others = [n for n, p in attached.base.items() if p is module.weight and n != f"{name}.weight"]
        if others:
            return f"the weight of {name} is {others[0]} too, which merging would change; use the model as it is"
    if insertions(model):
        return (
            f"adapter={adapter} adds modules of its own to the model, which no weight equals, so it cannot be merged; "
            "use the model as it is"
        )
    adapted = projections(model).values()
    if any(isinstance(projection.base, QuantizedLinear) for projection in adapted):
        return (
            "an adapter over a quantised base cannot be merged: the sum would be rounded again; use the model as it is"
        )
    adapters = [adapter for projection in adapted for adapter in projection.adapters.values()]
    if not all(isinstance(a, LinearAdapter) and a.weight() is not None for a in adapters):
        return (
            f"adapter={adapter} is not linear, so no weight equals it and it cannot be merged; "
            "use the model as it is (only linear adapters such as lora merge)"
        )
    return None
