"""The modules that are trained whole beside an adapter: `modules_to_save`, by default a model's head."""

from collections.abc import Sequence

from torch import nn

from loda.architectures import ends_with
from loda.errors import LodaError

HEADS = ("classifier", "pre_classifier", "qa_outputs", "score")
"""What transformers calls the heads of classification and question answering, which are random at the start."""


def modules_to_save(model: nn.Module, wanted: Sequence[str] | None, adapted: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the modules of `model` to train whole.

    Args:
        model: the base.
        wanted: ends of their names; None means the head.
        adapted: names of the modules that get an adapter.

    Raises:
        LodaError: a name without a module, or a module that is adapted or quantised.
    """
    named = dict(model.named_modules())
    if wanted is None:
        wanted = [head for head in heads(model) if not any(_is_in(name, head) for name in adapted)]
    found = [name for name in named if any(ends_with(name, ending) for ending in wanted)]
    for ending in wanted:
        if not any(ends_with(name, ending) for name in found):
            raise LodaError(f"modules_to_save={tuple(wanted)}: this model has no module named *.{ending}")
    for name in found:
        beside = [other for other in adapted if _is_in(other, name)]
        if beside:
            raise LodaError(f"modules_to_save names {name}, and {beside[0]} gets an adapter; choose one of the two")
        if not all(parameter.is_floating_point() for parameter in named[name].parameters()):
            raise LodaError(f"modules_to_save names {name}, which is quantised and cannot be trained; leave it out")
    return tuple(found)


def heads(model: nn.Module) -> list[str]:
    """Return the names of the modules that a model of transformers has beside its body, such as `score`.

    There are none in a language model, whose head is pre-trained, and in other kinds of models.
    """
    output = getattr(model, "get_output_embeddings", None)  # models of transformers have it
    if output is None or output() is not None:
        return []
    return [name for name, _ in model.named_children() if name in HEADS]


def _is_in(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.")
