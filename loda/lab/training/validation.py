"""The loss on the validation split: what a learning rate is chosen by, and what stands beside the scores."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loda.lab.training.examples import Batch, Example
from loda.lab.training.loss import NORMALISER, target_loss

BATCH = 16


@torch.no_grad()
def validation_loss(
    model: PreTrainedModel, examples: Sequence[Example], collate: Callable[[Sequence[Example]], Batch]
) -> float:
    """Return the mean of -log p over the target tokens of `examples`, in nats; no dropout, no label smoothing."""
    was_training = model.training
    model.eval()
    total = sum(loss.item() * weight for loss, weight in weighted_losses(model, examples, collate))
    model.train(was_training)
    return total / sum(example.num_targets for example in examples)


def weighted_losses(
    model: PreTrainedModel, examples: Sequence[Example], collate: Callable[[Sequence[Example]], Batch]
) -> Iterator[tuple[Tensor, float]]:
    """The mean loss of each batch, and its number of target tokens as a weight."""
    ordered = sorted(examples, key=lambda example: len(example.ids))  # little padding
    for start in range(0, len(ordered), BATCH):
        part = ordered[start : start + BATCH]
        targets = sum(example.num_targets for example in part)
        yield target_loss(model, collate(part).to(model.device), 0.0), targets + NORMALISER
