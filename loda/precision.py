"""What trains is fp32, also in a model of half precision, and computes in fp32 between casts at its door.

fp16 has no room for Adam's eps (1e-8 is 0, so the first step divides by zero), and bf16 loses updates that are smaller
than 1/256 of a weight. An added module casts its input by itself. A module of the base whose parameters are trained
(`finetune`, `modules_to_save`) gets hooks that cast, and an empty buffer whose dtype is the base's: it follows casts of
the model, so it tells what to cast the output to, and the weights when training is over.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
_BASE = "loda_base_dtype"
_HANDLES = "loda_handles"


def widen(parameters: Iterable[nn.Parameter]) -> None:
    """Make parameters of half precision fp32, in place."""
    for parameter in parameters:
        if parameter.dtype in HALF:
            parameter.data = parameter.data.float()


def train_copies(model: nn.Module, originals: list[nn.Parameter], autocast: bool) -> None:
    """Replace `originals` by copies; modules that share a parameter share its copy. `autocast` makes them fp32."""
    copies = {id(original): nn.Parameter(original.detach().clone()) for original in originals}
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if copies.keys().isdisjoint(map(id, own.values())):
            continue
        dtype = next(iter(own.values())).dtype
        if autocast and dtype in HALF:
            _cast_at_door(module, dtype)
            # What stays frozen in this module computes in fp32 beside what trains.
            beside = {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in own.values()}
            copies = beside | copies
        for name, parameter in own.items():
            if id(parameter) in copies:
                setattr(module, name, copies[id(parameter)])
    if autocast:
        widen(copies.values())


def narrow(model: nn.Module) -> None:
    """Undo the casts of `train_copies` in `model`; the parameters there get the base's dtype."""
    for module in model.modules():
        if hasattr(module, _BASE):
            dtype = getattr(module, _BASE).dtype
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
            for handle in getattr(module, _HANDLES):
                handle.remove()
            delattr(module, _BASE)
            delattr(module, _HANDLES)


def base_dtype(module: nn.Module, like: Tensor) -> torch.dtype:
    """Return the dtype that the base has in `module`: that of its parameter `like` unless `module` casts."""
    found: Tensor = getattr(module, _BASE, like)
    return found.dtype


def _cast_at_door(module: nn.Module, dtype: torch.dtype) -> None:
    """Let `module`, a part of the base, compute in the dtype of its parameters and give out `dtype`, the base's."""
    device = next(module.parameters(recurse=False)).device
    module.register_buffer(_BASE, torch.empty(0, dtype=dtype, device=device), persistent=False)
    before = module.register_forward_pre_hook(_cast_input, with_kwargs=True)
    setattr(module, _HANDLES, (before, module.register_forward_hook(_cast_output)))


def _cast_input(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    dtype = next(module.parameters(recurse=False)).dtype
    return _cast(args, dtype), {name: _cast(value, dtype) for name, value in kwargs.items()}


def _cast_output(module: nn.Module, args: Any, output: Any) -> Any:
    return _cast(output, getattr(module, _BASE).dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast a floating tensor, or those in a tuple or list."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    if type(value) in (tuple, list):
        return type(value)(_cast(item, dtype) for item in value)
    return value
