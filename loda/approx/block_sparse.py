"""Block-sparse: the blocks of W_proj with the largest norm, the others set to zero.

Of all sets of equally many blocks these keep the most energy. Forward multiplies by a dense matrix that holds the
zeros; `macs` counts the kept blocks, which is what a block-sparse kernel would compute.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from loda.approx.sparse import SparseLinear
from loda.errors import LodaError
from loda.settings import settings


@settings
class BlockSparseConfig:
    """`keep` = the fraction of blocks kept, each `block` x `block` entries.

    Raises:
        LodaError: a setting out of its range, or in `check` a weight that the blocks do not tile, or none kept.
    """

    name: ClassVar[str] = "block_sparse"
    is_projection: ClassVar[bool] = True
    keep: float = Field(default=0.4, gt=0, le=1, description="the fraction of blocks kept, 0.4 keeps 40 %")
    block: int = Field(default=32, ge=1, description="rows and columns of a block")

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if blocks do not tile a (d_in, d_out) weight, or none of them would be kept."""
        if d_in % self.block or d_out % self.block:
            raise LodaError(
                f"block={self.block} does not divide the {d_in} x {d_out} projection; choose a divisor of both"
            )
        if self._kept(d_in, d_out) < 1:
            raise LodaError(f"keep={self.keep} keeps no block of the {d_in} x {d_out} projection; choose a larger one")

    def _kept(self, d_in: int, d_out: int) -> int:
        return round(self.keep * d_in * d_out / self.block**2)

    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> SparseLinear:
        """Return the block-sparse approximation of `weight` (d_in, d_out), with `bias` (d_out,) as it is."""
        self.check(*weight.shape)
        kept, size = self._kept(*weight.shape), self.block
        tiles = weight.unflatten(1, (-1, size)).unflatten(0, (-1, size))  # (rows, size, columns, size)
        norms = tiles.double().square().sum((1, 3))
        order = norms.flatten().argsort(descending=True, stable=True)[:kept]
        mask = torch.zeros_like(norms, dtype=torch.bool).flatten().scatter(0, order, value=True).view_as(norms)
        whole = mask.repeat_interleave(size, 0).repeat_interleave(size, 1)
        return SparseLinear.masked(weight, whole, bias, kept * size**2)
