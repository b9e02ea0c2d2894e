"""Refuse transformers' `save_pretrained` on a model with adapters: the folder would load with random q, k and v.

With the keyword `state_dict` it is allowed, because `Trainer` saves and restores its checkpoints that way.
"""

from functools import partial
from typing import Any

from torch import nn

from loda.errors import LodaError

METHOD = "save_pretrained"


def guard(model: nn.Module) -> None:
    """Make `save_pretrained(folder)` of `model`, and of the models of transformers in it, raise LodaError."""
    for module in model.modules():
        if hasattr(type(module), METHOD):
            setattr(module, METHOD, partial(_save, module))


def release(model: nn.Module) -> None:
    """Undo `guard`."""
    for module in model.modules():
        module.__dict__.pop(METHOD, None)


def _save(model: Any, *arguments: Any, **settings: Any) -> Any:
    if "state_dict" not in settings:
        raise LodaError(
            "model.save_pretrained of transformers cannot write a model with adapters, its folder would load with "
            "random projections; call loda.save_pretrained(model, folder), or loda.merge(model) before"
        )
    return type(model).save_pretrained(model, *arguments, **settings)
