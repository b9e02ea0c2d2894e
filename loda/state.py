"""What a model with adapters holds: the adapter's parameters, and the base's own modules and parameters.

`loda.inject` keeps an `AdapterState` in one attribute of the model; the functions here read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import nn

from loda.config import LodaConfig
from loda.errors import LodaError
from loda.interfaces import Reparametrised

Model = TypeVar("Model", bound=nn.Module)
_ATTRIBUTE = "loda_adapter_state"


@dataclass(frozen=True)
class AdapterState:
    """What `inject` did to a model.

    Attributes:
        config: adapter, approximation and slices.
        base: the base's own parameters by their names in the base, tied ones under each name.
        replaced: the base's own modules whose place adapted projections took, by name.
        trained_before: names of the parameters that required gradients in the base.
        trained: names of the parameters that the adapter trains.
        optimized: whether `loda.optimize_for_inference` has replaced the adapted projections.
    """

    config: LodaConfig
    base: Mapping[str, nn.Parameter]
    replaced: Mapping[str, nn.Module]
    trained_before: frozenset[str]
    trained: frozenset[str]
    optimized: bool = False


def remember(model: nn.Module, state: AdapterState) -> None:
    """Keep `state` in `model`."""
    setattr(model, _ATTRIBUTE, state)


def state_of(model: nn.Module) -> AdapterState:
    """Return what `inject` did to `model`.

    Raises:
        LodaError: the model holds no adapters, or was optimised for inference.
    """
    found = getattr(model, _ATTRIBUTE, None)
    if not isinstance(found, AdapterState):
        raise LodaError("this model holds no adapters; call loda.inject(model, config) first")
    if found.optimized:
        raise LodaError(
            "this model was optimised for inference, its adapters are no longer apart from the weights; "
            "load the base and the saved adapter again"
        )
    return found


def mark_optimized(model: nn.Module) -> None:
    """Mark `model` as optimised for inference; `state_of` raises afterwards."""
    remember(model, replace(state_of(model), base={}, replaced={}, optimized=True))


def check_holds_no_adapters(model: nn.Module) -> None:
    """Raise LodaError if `inject` was applied to `model`."""
    if hasattr(model, _ATTRIBUTE):
        raise LodaError("this model already holds adapters; call loda.unload(model) first")


def forget(model: Model) -> Model:
    """Make `model`, whose adapters are out, an ordinary model: its parameters train as in the base."""
    trained_before = state_of(model).trained_before
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained_before)
    delattr(model, _ATTRIBUTE)
    return model


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name: those that require gradients."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that `inject` made trainable, by name, even if they were frozen since.

    Raises:
        LodaError: the model holds no adapters.
    """
    trained = state_of(model).trained
    return {name: p for name, p in model.named_parameters() if name in trained}


def adapter_state(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are saved, by name: those of the adapter, folded (see `fold`).

    Raises:
        LodaError: the model holds no adapters.
    """
    state = adapter_parameters(model)
    for name, part in _reparametrised(model).items():
        state = {key: p for key, p in state.items() if not key.startswith(f"{name}.")}
        state |= {f"{name}.{key}": p for key, p in part.folded().items()}
    return state


def fold(model: Model) -> Model:
    """Drop the training-only parameters of the adapter (a prefix has some), in place; the function stays the same.

    Raises:
        LodaError: the model holds no adapters.
    """
    attached, state = state_of(model), adapter_state(model)
    for part in _reparametrised(model).values():
        part.fold()
    remember(model, replace(attached, trained=frozenset(state)))
    return model


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the base's own parameters by their names in the base, on the device and in the dtype of the model now.

    Tied parameters stand under each of their names. The result is the same before `inject` and after it, whatever the
    adapter and the approximation.
    """
    if not hasattr(model, _ATTRIBUTE):
        return dict(model.named_parameters(remove_duplicate=False))
    attached = state_of(model)
    in_use = {id(parameter) for parameter in model.parameters()}
    found: dict[int, nn.Parameter] = {}
    for name, parameter in attached.base.items():
        if id(parameter) not in in_use and id(parameter) not in found:
            # The parameter stood aside while the model may have been moved or cast.
            owner = name.rpartition(".")[0]
            in_projection = owner in attached.replaced
            like = next(model.get_submodule(owner).parameters()) if in_projection else model.get_parameter(name)
            if (parameter.device, parameter.dtype) != (like.device, like.dtype):
                found[id(parameter)] = nn.Parameter(parameter.detach().to(like), parameter.requires_grad)
    return {name: found.get(id(parameter), parameter) for name, parameter in attached.base.items()}


def _reparametrised(model: nn.Module) -> dict[str, Reparametrised]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Reparametrised)}
