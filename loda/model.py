"""Put adapters into a model and take them out.

`inject` works in place and returns the model. It keeps the modules and parameters that it replaces in one attribute of
the model (an `AdapterState`), so `unload` always gives the base back.

An adapter trains new modules, or copies of the base's parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from torch import Tensor, nn

from loda.adapters.insertion import remove_insertions
from loda.approx.group import base_projections, check_approximation, state_dict
from loda.approx.quantized import keep_layout
from loda.architectures import ALL
from loda.config import LodaConfig
from loda.errors import LodaError
from loda.guard import guard, release
from loda.heads import modules_to_save
from loda.identity import Sample, sample
from loda.interfaces import Reparametrised
from loda.precision import base_dtype, narrow, train_copies, widen
from loda.projection import AdaptedProjection
from loda.targets import TargetModule, check_slices, find_targets
from loda.wrappers import before_wrapping, check_not_wrapped_in_parts, on_inner_model

Model = TypeVar("Model", bound=nn.Module)
ATTRIBUTE = "loda_adapter_state"


@dataclass(frozen=True)
class AdapterState:
    """What `inject` did to a model.

    Attributes:
        config: adapter, approximation and slices.
        base: the base's parameters by their names in the base, tied ones under each name.
        replaced: the base's modules that adapted projections replaced, by name.
        trained_before: names of the parameters that required gradients in the base.
        trained: names of the parameters that the adapter trains.
        frozen: samples of the other parameters of the model, as `inject` left them.
        optimized: whether `loda.optimize_for_inference` has replaced the adapted projections.
    """

    config: LodaConfig
    base: Mapping[str, nn.Parameter]
    replaced: Mapping[str, nn.Module]
    trained_before: frozenset[str]
    trained: frozenset[str]
    frozen: Mapping[str, Sample]
    optimized: bool = False


@before_wrapping
def inject(
    model: Model,
    config: LodaConfig,
    approximation: Mapping[str, Tensor] | None = None,
    *,
    autocast_adapter_dtype: bool = True,
) -> Model:
    """Replace the projections of `model` that `config` names by adapted ones, in place, and freeze everything else.

    Afterwards only the parameters of the adapter and of `config.modules_to_save` require gradients. Every adapter but
    the prefix starts as the zero map, so the model computes what it did before, or what the approximated one computes.

    Args:
        model: a model of an architecture in `loda.architectures`, or any with `config.targets`; without adapters.
        config: adapter, approximation and slices.
        approximation: the state dict that `loda.approximate` returned; without it the approximation is computed.
        autocast_adapter_dtype: whether what trains is fp32 where the base is fp16 or bf16 (see `loda.precision`), as in
            PEFT. Otherwise it has the dtype of the base.

    Raises:
        LodaError: an unknown architecture, adapters already there, a slice or a module that does not exist, settings or
            an approximation that do not fit the projections, or 4-bit weights that were used (see
            `loda.approx.quantized.keep_layout`). The model is unchanged.
    """
    check_holds_no_adapters(model)
    targets = targets_of(model, config)
    slices = {target.name: target.adapted(config.slices, config.targets) for target in targets}
    config.adapter.check(model, [name for name, adapted in slices.items() if adapted])
    whole = modules_to_save(model, config.modules_to_save, [target.name for target in targets])
    bases = base_projections(targets, config.approx, config.joint, approximation)
    keep_layout(model)
    base = base_parameters(model)
    trained_before = frozenset(trainable_parameters(model))
    model.requires_grad_(False)
    for target in targets:
        base_projection, d_in = bases[target.name], target.shape[0]
        adapted = slices[target.name]
        projection = AdaptedProjection(base_projection, target.slices, d_in, adapted, target.is_transposed)
        model.set_submodule(target.name, projection.train(target.module.training))
    _attach(model, config, whole, autocast_adapter_dtype)
    trained = frozenset(trainable_parameters(model))
    replaced = {target.name: target.module for target in targets}
    config = replace(config, modules_to_save=whole or config.modules_to_save)  # so that it is saved which
    others = {name: sample(parameter) for name, parameter in model.named_parameters() if name not in trained}
    setattr(model, ATTRIBUTE, AdapterState(config, base, replaced, trained_before, trained, others))
    guard(model)
    return model


def _attach(model: nn.Module, config: LodaConfig, whole: Sequence[str], autocast_adapter_dtype: bool) -> None:
    """Add the adapter to the frozen `model` and unfreeze what trains, parameters of the base as copies."""
    frozen = {id(parameter) for parameter in model.parameters()}
    config.adapter.attach(model)
    for name in whole:
        model.get_submodule(name).requires_grad_(True)
    trained = list(trainable_parameters(model).values())
    if autocast_adapter_dtype:
        widen(parameter for parameter in trained if id(parameter) not in frozen)
    train_copies(model, [parameter for parameter in trained if id(parameter) in frozen], autocast_adapter_dtype)


@on_inner_model
def approximate(model: nn.Module, config: LodaConfig, moments: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the approximation of every projection of `model` as one flat state dict, for `loda.inject`.

    The keys are `<module>.W_A` and so on; without an approximation (dense) the result is empty. `moments` are what
    `loda.second_moments` returned, for an approximation with `calibration`.

    Raises:
        LodaError: an unknown architecture, settings that do not fit, or moments that they do not ask for.
    """
    targets = targets_of(model, config)
    if moments is not None and not getattr(config.approx, "calibration", 0):
        raise LodaError(f"{config.approx} has no use for moments; set calibration, or leave them out")
    if moments is not None:
        check_moments(moments, targets)
    if config.approx.name == "dense":
        return {}
    return state_dict(base_projections(targets, config.approx, config.joint, moments=moments))


@on_inner_model
def unload(model: Model) -> Model:
    """Take the adapters out of `model`, in place: it is the base model again, bit for bit, also after approximations.

    The base's modules come back on the device and in the dtype that the model has now.

    Raises:
        LodaError: the model holds no adapters.
    """
    replaced, parameters = state_of(model).replaced, base_parameters(model)
    remove_insertions(model)
    for name, module in replaced.items():
        model.set_submodule(name, module.train(model.get_submodule(name).training))
    narrow(model)
    for name, parameter in parameters.items():
        owner, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(owner), own_name, parameter)
    return forget(model)


@on_inner_model
def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@on_inner_model
def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that `inject` made trainable, by name, even if they were frozen since."""
    trained = state_of(model).trained
    return {name: p for name, p in model.named_parameters() if name in trained}


@on_inner_model
def adapter_state(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are saved, by name: those of the adapter, folded (see `fold`)."""
    state = adapter_parameters(model)
    for name, module in _reparametrised(model).items():
        state = {key: p for key, p in state.items() if not key.startswith(f"{name}.")}
        state |= {f"{name}.{key}": p for key, p in module.folded().items()}
    return state


def fold(model: Model) -> Model:
    """Drop the training-only parameters of the adapter (a prefix has some), in place; the function stays the same."""
    folded = replace(state_of(model), trained=frozenset(adapter_state(model)))
    for module in _reparametrised(model).values():
        module.fold()
    setattr(model, ATTRIBUTE, folded)
    return model


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the base's own parameters by their names in the base, on the device and in the dtype of the model now.

    Tied parameters stand under each of their names. The result is the same before `inject` and after it.
    """
    if not hasattr(model, ATTRIBUTE):
        return dict(model.named_parameters(remove_duplicate=False))
    attached = state_of(model)
    in_use = {id(parameter) for parameter in model.parameters()}
    found: dict[int, nn.Parameter] = {}
    for name, parameter in attached.base.items():
        if id(parameter) not in in_use and id(parameter) not in found:
            # The model does not hold this parameter now, so moving or casting the model left it behind.
            owner = name.rpartition(".")[0]
            module = model.get_submodule(owner)
            if owner in attached.replaced:
                module = cast(AdaptedProjection, module).base
                like = next(module.parameters())
            else:
                like = model.get_parameter(name)
            dtype = base_dtype(module, like)
            if (parameter.device, parameter.dtype) != (like.device, dtype):
                moved = parameter.detach().to(like.device, dtype)
                found[id(parameter)] = nn.Parameter(moved, parameter.requires_grad)
    return {name: found.get(id(parameter), parameter) for name, parameter in attached.base.items()}


def state_of(model: nn.Module) -> AdapterState:
    """Return what `inject` did to `model`; LodaError if it holds no adapters, was optimised, or has wrapped parts."""
    found = getattr(model, ATTRIBUTE, None)
    if found is None:
        raise LodaError("this model holds no adapters; call loda.inject(model, config) first")
    if found.optimized:
        raise LodaError(
            "this model was optimised for inference, its adapters are no longer apart from the weights; "
            "load the base and the saved adapter again"
        )
    check_not_wrapped_in_parts(model)
    return cast(AdapterState, found)


def mark_optimized(model: nn.Module) -> None:
    """Mark `model` as optimised for inference; `state_of` raises afterwards."""
    setattr(model, ATTRIBUTE, replace(state_of(model), base={}, replaced={}, optimized=True))


def check_holds_no_adapters(model: nn.Module) -> None:
    """Raise LodaError if `inject` was applied to `model`."""
    if hasattr(model, ATTRIBUTE):
        raise LodaError(
            "this model already holds adapters; call loda.unload(model) first, or use loda.peft, which keeps several "
            "named adapters in one model"
        )


def check_moments(moments: Mapping[str, Tensor], targets: Sequence[TargetModule]) -> None:
    """Raise LodaError unless `moments` are those of `targets`."""
    if moments.keys() != {target.name for target in targets}:
        raise LodaError("the moments are those of other modules; give loda.second_moments(model, config, batches)")


def targets_of(model: nn.Module, config: LodaConfig) -> list[TargetModule]:
    """Return the modules that `config` names, after checking that it fits them."""
    targets = find_targets(model, config.targets, config.exclude_modules, config.layers_to_transform)
    if config.targets and config.targets != ALL:
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


def forget(model: Model) -> Model:
    """Delete the `AdapterState`, and let the parameters train that did so in the base."""
    trained_before = state_of(model).trained_before
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained_before)
    delattr(model, ATTRIBUTE)
    release(model)
    return model


def _reparametrised(model: nn.Module) -> dict[str, Reparametrised]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Reparametrised)}
