"""Which rows make which batch, as in LoRA's code: DistributedSampler over FT_Dataset on one process.

An epoch has ceil(N / batch) batches. The order is a random permutation drawn from seed + epoch, epochs counted from
1; indices from N on, which fill up the last batch, stand for rows drawn by Random(911) when they are reached.
"""

import random
from collections.abc import Iterator

import torch

FILL_SEED = 911


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """ceil(rows / batch_size)."""
    return -(-rows // batch_size)


def batches(rows: int, batch_size: int, seed: int, epochs: int) -> Iterator[list[int]]:
    """The row numbers of every batch of a whole run, in order."""
    fill = random.Random(FILL_SEED)
    steps = steps_per_epoch(rows, batch_size)
    for epoch in range(1, epochs + 1):
        generator = torch.Generator().manual_seed(seed + epoch)
        drawn = torch.randperm(steps * batch_size, generator=generator).tolist()
        indices = [i if i < rows else fill.randint(0, rows - 1) for i in drawn]
        for step in range(steps):
            yield indices[step * batch_size : (step + 1) * batch_size]
