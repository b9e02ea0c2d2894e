"""Which rows make which batch. An epoch has ceil(N / batch) batches; epochs count from 1.

"reference" is LoRA's code, DistributedSampler over FT_Dataset on one process: a random permutation drawn from
seed + epoch; indices from N on, which fill up the last batch, stand for rows drawn by Random(911) when they are
reached.

"bucketed" puts rows of like length together, so that hardly any position is padding (validation splits, batches of 8:
30% more positions than tokens on E2E and 60% on DART in "reference", 0.2% on both in "bucketed"). Every row comes once
per epoch, the epoch's last rows make a shorter batch, and rows of equal length and the batches are shuffled by
seed + epoch. A batch's loss is a mean over its tokens, so tokens of short rows weigh more than in "reference": it is
another training, not the same one faster.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FILL_SEED = 911


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """ceil(rows / batch_size)."""
    return -(-rows // batch_size)


def batches(order: str, lengths: Sequence[int], batch_size: int, seed: int, epochs: int) -> Iterator[list[int]]:
    """The row numbers of every batch of a whole run, in order.

    Args:
        order: a key of `ORDERS`.
        lengths: tokens of each row.
        batch_size: rows of a batch.
        seed: of the run.
        epochs: how often every row is seen.
    """
    return ORDERS[order](lengths, batch_size, seed, epochs)


def _reference(lengths: Sequence[int], batch_size: int, seed: int, epochs: int) -> Iterator[list[int]]:
    rows, fill = len(lengths), random.Random(FILL_SEED)
    for epoch in range(1, epochs + 1):
        drawn = _permutation(steps_per_epoch(rows, batch_size) * batch_size, _generator(seed, epoch))
        yield from _cut([i if i < rows else fill.randint(0, rows - 1) for i in drawn], batch_size)


def _bucketed(lengths: Sequence[int], batch_size: int, seed: int, epochs: int) -> Iterator[list[int]]:
    for epoch in range(1, epochs + 1):
        generator = _generator(seed, epoch)
        # Sorting keeps the drawn order of rows of equal length.
        cut = _cut(sorted(_permutation(len(lengths), generator), key=lengths.__getitem__), batch_size)
        yield from (cut[i] for i in _permutation(len(cut), generator))


def _generator(seed: int, epoch: int) -> "torch.Generator":
    import torch  # not above: settings are checked without it

    return torch.Generator().manual_seed(seed + epoch)


def _permutation(n: int, generator: "torch.Generator") -> list[int]:
    import torch

    drawn: list[int] = torch.randperm(n, generator=generator).tolist()
    return drawn


def _cut(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


ORDERS: dict[str, Callable[[Sequence[int], int, int, int], Iterator[list[int]]]] = {
    "reference": _reference,
    "bucketed": _bucketed,
}
