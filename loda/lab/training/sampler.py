"""Which examples make which batch, as LoRA's DistributedSampler over FT_Dataset does on one process.

An epoch has ceil(N / batch) batches; epochs count from 1. Its order is a random permutation drawn from seed + epoch.
The last batch is padded: an index of N or more means an example drawn by `Random(911)` when it is reached.
"""

import random
from collections.abc import Iterator

import torch

FILL_SEED = 911


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    return -(-num_examples // batch_size)


def batches(num_examples: int, batch_size: int, seed: int, epochs: int) -> Iterator[list[int]]:
    """The example numbers of every batch of a training, in order."""
    fill, padded = random.Random(FILL_SEED), steps_per_epoch(num_examples, batch_size) * batch_size
    for epoch in range(1, epochs + 1):
        drawn = torch.randperm(padded, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        order = [i if i < num_examples else fill.randint(0, num_examples - 1) for i in drawn]
        yield from (order[start : start + batch_size] for start in range(0, padded, batch_size))
