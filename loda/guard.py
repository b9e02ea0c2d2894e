"""Refuse transformers' `save_pretrained` on a model with adapters: the folder would load with random q, k and v.

With the keyword `state_dict` it is allowed, because `Trainer` saves and restores its checkpoints that way.
"""

from functools import partial
from typing import Any

from torch import nn

from loda.errors import LodaError

METHOD = "save_pretrained"


def guard(model: nn.Module) -> None:
    """Make `model.save_pretrained(folder)` raise LodaError; nothing happens to a model without this method."""
    if hasattr(type(model), METHOD):
        setattr(model, METHOD, partial(_save, model))


def release(model: nn.Module) -> None:
    """Undo `guard`."""
    model.__dict__.pop(METHOD, None)


def _save(model: Any, *arguments: Any, **settings: Any) -> Any:
    if "state_dict" not in settings:
        raise LodaError(
            "model.save_pretrained of transformers cannot write a model with adapters, its folder would load with "
            "random projections; call loda.save_pretrained(model, folder), or loda.merge(model) before"
        )
    return type(model).save_pretrained(model, *arguments, **settings)
