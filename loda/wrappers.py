"""Models inside the wrappers of torch.compile, DistributedDataParallel and the like, and without their weights."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from torch import nn

from loda.errors import LodaError

Function = TypeVar("Function", bound=Callable[..., Any])

COMPILED = "OptimizedModule"
# The attribute that holds the model, by the name of the wrapper's class, so that no wrapper has to be installed.
_INNER = {COMPILED: "_orig_mod"} | dict.fromkeys(
    ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine"), "module"
)


def unwrap(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return the model inside all wrappers of `model`, as accelerate does, and their names from outside in."""
    wrappers = []
    while wrapper := _wrapper(model):
        model = getattr(model, _INNER[wrapper])
        wrappers.append(wrapper)
    return model, wrappers


def on_inner_model(function: Function) -> Function:
    """Let `function`, whose first argument is a model, act on the model inside its wrappers.

    What it returns in place of the inner model keeps the wrapper of torch.compile, which works with other modules too.
    The other wrappers come off, because they hold on to the parameters that there were when they were made.
    """

    @wraps(function)
    def call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inner, wrappers = unwrap(model)
        result = function(inner, *args, **kwargs)
        return model if result is inner and wrappers == [COMPILED] else result

    return cast(Function, call)


def before_wrapping(function: Function) -> Function:
    """Like `on_inner_model`, for a `function` that adds modules, which wrappers of training would not see.

    LodaError for such wrappers, and for a model whose weights are not in memory.
    """

    @wraps(function)
    def call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inner, wrappers = unwrap(model)
        if set(wrappers) - {COMPILED}:
            raise LodaError(
                f"the model is wrapped by {wrappers[-1]}, which would not see the modules of an adapter; "
                "add the adapter first, then wrap"
            )
        check_not_wrapped_in_parts(inner)
        check_in_memory(inner)
        return on_inner_model(function)(model, *args, **kwargs)

    return cast(Function, call)


def check_not_wrapped_in_parts(model: nn.Module) -> None:
    """Raise LodaError if a module in `model` is wrapped, which changes the names of what is in it."""
    for name, module in model.named_modules():
        if _wrapper(module):
            raise LodaError(
                f"{name} is wrapped by {_wrapper(module)}, which changes the names of all modules in it; "
                "wrap the whole model instead, after adding the adapter"
            )


def check_in_memory(model: nn.Module) -> None:
    """Raise LodaError if weights of `model` are offloaded; a model on the meta device, without any, is fine."""
    elsewhere = [name for name, module in model.named_modules() if _offloads(getattr(module, "_hf_hook", None))]
    on_meta = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if len(on_meta) < sum(1 for _ in model.parameters()):
        elsewhere += on_meta
    if elsewhere:
        raise LodaError(
            f"{elsewhere[0]} is offloaded, so its weights are not in memory, where an adapter needs them; "
            "load the base without offloading, for example on one device or in 4 bits"
        )


def _wrapper(model: nn.Module) -> str | None:
    return next((cls.__name__ for cls in type(model).__mro__ if cls.__name__ in _INNER), None)


def _offloads(hook: Any) -> bool:
    """Whether a hook of accelerate, or one in a sequence of them, brings the weights from elsewhere for each call."""
    return bool(getattr(hook, "offload", False)) or any(map(_offloads, getattr(hook, "hooks", ())))
