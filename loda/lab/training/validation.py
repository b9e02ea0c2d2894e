"""The loss on the validation split: what a learning rate is chosen by, and what stands beside the scores."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from loda.lab.training.examples import Batch, Example
from loda.lab.training.loss import NORMALISER, target_loss

BATCH = 16


@torch.no_grad()
def validation_loss(
    model: PreTrainedModel, examples: Sequence[Example], collate: Callable[[Sequence[Example]], Batch]
) -> float:
    """Return the mean of -log p over the target tokens of `examples`, in nats; no dropout, no label smoothing."""
    ordered = sorted(examples, key=lambda example: len(example.ids))  # little padding
    total, was_training = 0.0, model.training
    model.eval()
    for start in range(0, len(ordered), BATCH):
        part = ordered[start : start + BATCH]
        targets = sum(example.num_targets for example in part)
        total += target_loss(model, collate(part).to(model.device), 0.0).item() * (targets + NORMALISER)
    model.train(was_training)
    return total / sum(example.num_targets for example in ordered)
