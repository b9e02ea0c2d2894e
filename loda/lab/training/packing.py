"""Packing: the examples of a batch laid end to end instead of padded, and GELU in one kernel.

In the reference's order a batch of eight examples of E2E has 30 % more positions than tokens, on DART 60 %. Packed, the
batch is one row of all tokens, which every product but attention's sees; position ids start again with each example,
and attention is computed for each example on its own. GPT-2's GELU in the tanh form is one kernel of torch where
transformers takes eight operations and keeps their results for the backward pass.

The losses are those of the padded batch to rounding, for the architectures in `loda.lab.base.attention.PLAIN`: a bias,
a cap or a window that others add to attention beside the mask would be lost. Dropout draws its noise for other
positions, so a training with dropout sees other noise than a padded one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from loda.errors import LodaError
from loda.lab.base.attention import addition_to_attention
from loda.lab.config import Experiment
from loda.lab.training.examples import Batch, Example, collate

ATTENTION = "within_examples"


def uses_packing(experiment: Experiment, shape: PretrainedConfig) -> bool:
    """Whether `trainer.packing` packs on this base.

    Raises:
        LodaError: packing=on where the losses would not be equal.
    """
    reason = obstacle(experiment, shape)
    if experiment.trainer.packing == "on" and reason:
        raise LodaError(f"trainer.packing=on is not possible: {reason}; set trainer.packing=auto or off")
    return experiment.trainer.packing != "off" and reason is None


def obstacle(experiment: Experiment, shape: PretrainedConfig) -> str | None:
    """Why packed losses would not be those of padded batches; None if they are."""
    if experiment.method.adapter.name == "prefix":
        return "a prefix needs one cache for each example"
    reason = addition_to_attention(shape, experiment.dataset.max_length)
    return reason and f"{reason} (dataset.max_length)"


def pack(examples: Sequence[Example]) -> Batch:
    """A batch of one row, (1, tokens), for a model inside `packed`."""
    singles = [collate([example]) for example in examples]
    lengths = [len(example.ids) for example in examples]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    inputs, targets, mask = (
        torch.cat([getattr(single, name) for single in singles], dim=1) for name in ("inputs", "targets", "mask")
    )
    return Batch(inputs, targets, mask, {"position_ids": positions, "lengths": lengths})


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """Prepare `model` for packed batches; inside, it takes no others."""
    attention = model.config._attn_implementation
    AttentionInterface.register(ATTENTION, _attention_within_examples)
    model.set_attn_implementation(ATTENTION)
    replaced = {name: module for name, module in model.named_modules() if isinstance(module, NewGELUActivation)}
    for name in replaced:
        model.set_submodule(name, nn.GELU(approximate="tanh"))
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        for name, module in replaced.items():
            model.set_submodule(name, module)


def _attention_within_examples(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int],
    **settings: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each example to itself: (1, heads, tokens, width) -> (1, tokens, heads, width)."""
    parts = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
    outputs = [sdpa_attention_forward(module, q, k, v, None, **settings)[0] for q, k, v in parts]
    return torch.cat(outputs, dim=1), None
