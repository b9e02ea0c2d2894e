"""Add linear adapters to the weights of the base, W + Delta W: an ordinary model, without modules of this library."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from loda.adapters.insertion import insertions
from loda.approx.dense import DenseLinear
from loda.approx.quantized import QuantizedLinear
from loda.architectures import oriented
from loda.errors import LodaError
from loda.interfaces import LinearAdapter, is_linear_adapter
from loda.model import Model, forget, state_of
from loda.precision import narrow
from loda.projection import projections
from loda.wrappers import on_inner_model


@on_inner_model
@torch.no_grad()
def merge(model: Model) -> Model:
    """Add linear adapters to the weights that they stand beside, W + Delta W, in place: an ordinary model again.

    Every merged module has the class of the base's module. Fine-tuned parameters of the base and `modules_to_save` stay
    as they are now.

    Raises:
        LodaError: no adapters, a non-linear or inserted adapter (no weight equals it), a quantised or tied weight, or
            an approximation under the adapter (the sum would be neither low-rank nor sparse). The model is unchanged.
    """
    refusal = _why_not_mergeable(model)
    if refusal:
        raise LodaError(f"{refusal}; use the model as it is")
    narrow(model)
    replaced = state_of(model).replaced
    for name, projection in projections(model).items():
        original, base = replaced[name], cast(DenseLinear, projection.base)
        weight = base.weight.clone()
        for slice_name, adapter in projection.adapters.items():
            projection.slices[slice_name].add_(weight, cast(Tensor, cast(LinearAdapter, adapter).weight()))
        # A copy of the original module, in which `memo` replaces the weight by the merged one.
        memo: dict[int, object] = {id(original.weight): nn.Parameter(oriented(original, weight).contiguous())}
        memo |= {} if base.bias is None else {id(original.bias): base.bias}
        model.set_submodule(name, copy.deepcopy(original, memo).train(projection.training))
    return forget(model)


@on_inner_model
def is_mergeable(model: nn.Module) -> bool:
    """Whether `merge` would succeed."""
    return _why_not_mergeable(model) is None


def _why_not_mergeable(model: nn.Module) -> str | None:
    attached, adapted = state_of(model), projections(model).values()
    adapter, approx = attached.config.adapter.name, attached.config.approx.name
    if approx != "dense":
        return f"an adapter over approx={approx} cannot be merged: the sum would no longer be {approx}"
    for name, module in attached.replaced.items():
        others = [n for n, p in attached.base.items() if p is module.weight and n != f"{name}.weight"]
        if others:
            return f"the weight of {name} is {others[0]} too, which merging would change"
    if insertions(model):
        return f"adapter={adapter} adds modules of its own to the model, which no weight equals, so it cannot be merged"
    if any(isinstance(projection.base, QuantizedLinear) for projection in adapted):
        return "an adapter over a quantised base cannot be merged: the sum would be rounded again"
    adapters = [adapter for projection in adapted for adapter in projection.adapters.values()]
    if not all(map(is_linear_adapter, adapters)):
        return (
            f"adapter={adapter} is not linear, so no weight equals it and it cannot be merged (only linear adapters "
            "such as lora merge)"
        )
    return None
