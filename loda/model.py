"""Put adapters into a model, take them out, merge them.

`inject` works in place and returns the model it was given. What it did is remembered in one attribute of the model
(an `Attachment`), which the other functions of the library read.

An adapter trains modules of its own, beside a projection or inserted elsewhere, or parameters of the base. The latter
are trained as copies: the base's own are set aside, untouched, for `unload`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from loda.adapters.insertion import insertions, remove_insertions
from loda.approx.dense import Frozen as DenseFrozen
from loda.approx.dense import Kept
from loda.approximation import FrozenTensors, approximate_targets, check_approximation, check_frozen
from loda.architectures import WHOLE, Target, check_slices, find_targets, plain_projection
from loda.config import LodaConfig, part_name
from loda.errors import LodaError
from loda.fingerprint import fingerprint
from loda.interfaces import LinearAdapter, Reparametrised
from loda.linear import keep_layout
from loda.projection import AdaptedProjection

Model = TypeVar("Model", bound=nn.Module)
_ATTRIBUTE = "loda_attachment"


@dataclass(frozen=True)
class Attachment:
    """What `inject` did to a model.

    Attributes:
        config: adapter, approximation and slices.
        base_fingerprint: of the base it found.
        trained_before: names of the parameters that required gradients in the base.
        trained: names of those that the adapter trains.
        originals: the base's own parameters where a copy of them is trained, by name.
        tied: for each adapted module whose weight is a parameter elsewhere too (a vocabulary head's), the other name.
        optimized: whether the adapters are gone into faster products since, for inference alone.
    """

    config: LodaConfig
    base_fingerprint: str
    trained_before: frozenset[str]
    trained: frozenset[str]
    originals: Mapping[str, nn.Parameter]
    tied: Mapping[str, str]
    optimized: bool = False


def inject(model: Model, config: LodaConfig, frozen: FrozenTensors | None = None) -> Model:
    """Replace the projections of `model` that `config` names by adapted ones, in place, and freeze everything else.

    Only what the adapter trains requires gradients afterwards. Every adapter but the prefix starts as the zero map,
    so the model computes what it did before (with `approx`, what the approximated model computes).

    Args:
        model: a model of an architecture in `loda.architectures`, or any with `config.targets`; without adapters.
        config: adapter, approximation and slices.
        frozen: tensors of the approximation by module name, as `approximate` returned them, where they are at
            hand; otherwise they are computed here.

    Raises:
        LodaError: an unknown architecture, adapters already there, a slice that does not exist, or settings that
            do not fit the projections, or 4-bit weights that were used (see `loda.linear.keep_layout`). The model is
            untouched then.
    """
    check_holds_no_adapters(model)
    targets = find_targets(model, config.targets)
    _check(model, targets, config)
    config.adapter.check(model)
    if frozen is not None:
        check_frozen(frozen, targets, config.approx, config.joint)
    tensors = approximate_targets(targets, config.approx, config.joint) if frozen is None else frozen
    keep_layout(model)
    trained_before = frozenset(trainable_parameters(model))
    base_fingerprint = fingerprint(model)
    tied = _tied(model, targets)
    model.requires_grad_(False)
    for target in targets:
        d_in, d_out = target.shape
        if target.is_plain:
            module = config.approx.build(_beside(target.weight, tensors[target.name]), target.bias)
        else:
            module = Kept(target.module, d_in, d_out)
        projection = AdaptedProjection(module, target.slices, d_in)
        model.set_submodule(target.name, projection.train(target.module.training))
    base = {id(parameter) for parameter in model.parameters()}
    config.adapter.attach(model, projections(model), tuple(dict.fromkeys((*config.slices, WHOLE))))
    trained = trainable_parameters(model)
    originals = {name: parameter for name, parameter in trained.items() if id(parameter) in base}
    _replace(model, {id(p): nn.Parameter(p.detach().clone()) for p in originals.values()})
    attached = Attachment(config, base_fingerprint, trained_before, frozenset(trained), originals, tied)
    setattr(model, _ATTRIBUTE, attached)
    return model


def approximate(model: nn.Module, config: LodaConfig) -> FrozenTensors:
    """The tensors of the approximation of every projection of `model`, by module name.

    Raises:
        LodaError: an unknown architecture or settings that do not fit.
    """
    targets = find_targets(model, config.targets)
    _check(model, targets, config)
    return approximate_targets(targets, config.approx, config.joint)


def attachment(model: nn.Module) -> Attachment:
    """What `inject` did to `model`.

    Raises:
        LodaError: nothing was injected, or it was optimised for inference since.
    """
    found = getattr(model, _ATTRIBUTE, None)
    if not isinstance(found, Attachment):
        raise LodaError("this model holds no adapters; call loda.inject(model, config) first")
    if found.optimized:
        raise LodaError(
            "this model was optimised for inference, its adapters are no longer apart from the weights; "
            "load the base and the saved adapter again"
        )
    return found


def mark_optimized(model: nn.Module) -> None:
    """Let `attachment` refuse from now on."""
    setattr(model, _ATTRIBUTE, replace(attachment(model), optimized=True))


def check_holds_no_adapters(model: nn.Module) -> None:
    """Raise LodaError for a model that `inject` was applied to."""
    if hasattr(model, _ATTRIBUTE):
        raise LodaError("this model already holds adapters; call loda.unload(model) first")


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that `inject` made trainable, by name, also where they were frozen since (for inference, say).

    Raises:
        LodaError: nothing was injected.
    """
    trained = attachment(model).trained
    return {name: p for name, p in model.named_parameters() if name in trained}


def adapter_state(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are saved, by name: those of the adapter, with what a reparametrised part folds to.

    Raises:
        LodaError: nothing was injected.
    """
    state = adapter_parameters(model)
    for name, part in _reparametrised(model).items():
        state = {key: p for key, p in state.items() if not key.startswith(f"{name}.")}
        state |= {f"{name}.{key}": p for key, p in part.folded().items()}
    return state


def fold(model: Model) -> Model:
    """Let every reparametrised part of the adapter be what it keeps, in place; the function stays the same.

    Raises:
        LodaError: nothing was injected.
    """
    attached = attachment(model)
    state = adapter_state(model)
    for part in _reparametrised(model).values():
        part.fold()
    setattr(model, _ATTRIBUTE, replace(attached, trained=frozenset(state)))
    return model


def projections(model: nn.Module) -> dict[str, AdaptedProjection]:
    """The adapted projections of `model`, by module name, in order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, AdaptedProjection)}


def unload(model: Model) -> Model:
    """Take the adapters out of `model`, in place; it is the base model again, bit for bit.

    Raises:
        LodaError: no adapters, or an approximation under them: the original weights are gone then. The model is
            untouched.
    """
    attached = attachment(model)
    if not _is_dense(attached):
        raise LodaError(
            f"approx={part_name(attached.config.approx)} replaced the original weights, which are not kept; "
            "load the base model again instead of unloading"
        )
    _restore(model, attached.originals)
    remove_insertions(model)
    for name, projection in projections(model).items():
        frozen = projection.frozen
        if isinstance(frozen, Kept):
            module = frozen.module
        else:
            module = plain_projection(cast(DenseFrozen, frozen).weight, cast(DenseFrozen, frozen).bias)
        if name in attached.tied:
            module.weight = model.get_parameter(attached.tied[name])
        model.set_submodule(name, module.train(projection.training))
    return _detach(model)


@torch.no_grad()
def merge(model: Model) -> Model:
    """Add linear adapters to the weights they stand beside, W + Delta W, in place: an ordinary model again.

    Parameters of the base that were trained themselves (fine-tuning) stay as they are now.

    Raises:
        LodaError: no adapters, a non-linear or inserted adapter (no weight equals it), or an approximation under it
            (the sum would be neither low-rank nor sparse). The model is untouched.
    """
    refusal = _why_not_mergeable(model)
    if refusal:
        raise LodaError(refusal)
    for name, projection in projections(model).items():
        frozen = cast(DenseFrozen, projection.frozen)
        weight = frozen.weight.clone()
        for part, adapter in projection.adapters.items():
            projection.slices[part].add_(weight, cast(LinearAdapter, adapter).weight())
        model.set_submodule(name, plain_projection(weight, frozen.bias).train(projection.training))
    return _detach(model)


def is_mergeable(model: nn.Module) -> bool:
    """Whether `merge` would succeed."""
    return _why_not_mergeable(model) is None


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name: those that require gradients."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _check(model: nn.Module, targets: Sequence[Target], config: LodaConfig) -> None:
    if config.targets:
        check_slices(model, targets, config.slices, approximated=part_name(config.approx) != "dense")
    else:
        known = list(dict.fromkeys(name for target in targets for name in target.slices))
        missing = [name for name in config.slices if name not in known]
        if missing:
            raise LodaError(f"slices={config.slices}: the model has no slice {missing[0]!r}, it has {', '.join(known)}")
    check_approximation(targets, config.approx, config.joint)


def _beside(weight: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors, which may have been stored, on the device of `weight`; single numbers are read where they are."""
    return {name: tensor.to(weight.device) if tensor.ndim else tensor for name, tensor in tensors.items()}


def _tied(model: nn.Module, targets: Sequence[Target]) -> dict[str, str]:
    """For each target whose weight is a parameter elsewhere too, the name that it has there."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    others = {t.name: [n for n in names[id(t.module.weight)] if n != f"{t.name}.weight"] for t in targets}
    return {name: found[0] for name, found in others.items() if found}


def _reparametrised(model: nn.Module) -> dict[str, Reparametrised]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Reparametrised)}


def _replace(model: nn.Module, replacements: Mapping[int, nn.Parameter]) -> None:
    """Put other parameters in the place of those with the given ids, in every module that shares them."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in replacements:
                setattr(module, name, replacements[id(parameter)])


def _restore(model: nn.Module, originals: Mapping[str, nn.Parameter]) -> None:
    """Put the base's own parameters back, to where the model was moved meanwhile."""
    replacements = {}
    for name, original in originals.items():
        copy = model.get_parameter(name)
        stays = (original.device, original.dtype) == (copy.device, copy.dtype)
        replacements[id(copy)] = original if stays else nn.Parameter(original.detach().to(copy))
    _replace(model, replacements)


def _detach(model: Model) -> Model:
    trained_before = attachment(model).trained_before
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained_before)
    delattr(model, _ATTRIBUTE)
    return model


def _is_dense(attached: Attachment) -> bool:
    return part_name(attached.config.approx) == "dense"


def _why_not_mergeable(model: nn.Module) -> str | None:
    attached = attachment(model)
    adapter, approx = part_name(attached.config.adapter), part_name(attached.config.approx)
    if not _is_dense(attached):
        return (
            f"an adapter over approx={approx} cannot be merged: the sum would no longer be {approx}; "
            "use the model as it is"
        )
    if attached.tied:
        module, other = next(iter(attached.tied.items()))
        return f"the weight of {module} is {other} too, which merging would change; use the model as it is"
    if insertions(model):
        return (
            f"adapter={adapter} adds modules of its own to the model, which no weight equals, so it cannot be merged; "
            "use the model as it is"
        )
    if any(isinstance(p.frozen, Kept) for p in projections(model).values()):
        return (
            "an adapter over a quantised base cannot be merged: the sum would be rounded again; use the model as it is"
        )
    adapters = (a for p in projections(model).values() for a in p.adapters.values())
    if not all(isinstance(a, LinearAdapter) for a in adapters):
        return (
            f"adapter={adapter} is not linear, so no weight equals it and it cannot be merged; "
            "use the model as it is (only linear adapters such as lora merge)"
        )
    return None
