"""Transformers' own `save_pretrained` on a model with adapters, which writes names that no model of transformers has.

Loading such a folder gives random q, k and v. So the call is refused, on the instance, but with the keyword
`state_dict`: transformers' `Trainer` gives it, and loads its checkpoints into the model that it has.
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
