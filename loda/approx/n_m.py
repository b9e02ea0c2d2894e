"""n:m sparsity: of every m neighbouring inputs of an output the n largest weights, the others set to zero.

GPUs from Ampere on run 2:4 at up to twice the speed of dense weights. Forward multiplies by a dense matrix that holds
the zeros; `macs` counts the kept entries.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from loda.approx.sparse import SparseLinear
from loda.errors import LodaError
from loda.settings import settings


@settings
class NMConfig:
    """Keep `n` of every `m` entries along the inputs.

    Raises:
        LodaError: n above m, or in `check` a weight whose d_in is no multiple of m.
    """

    name: ClassVar[str] = "n_m"
    is_projection: ClassVar[bool] = True
    n: int = Field(default=2, ge=1)
    m: int = Field(default=4, ge=1)

    def __post_init__(self) -> None:
        if self.n > self.m:
            raise LodaError(f"n={self.n} exceeds m={self.m}; keep at most {self.m} of every {self.m}")

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if `m` does not divide d_in."""
        if d_in % self.m:
            raise LodaError(f"m={self.m} does not divide the {d_in} inputs of the {d_in} x {d_out} projection")

    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> SparseLinear:
        """Return the n:m sparse approximation of `weight` (d_in, d_out), with `bias` (d_out,) as it is."""
        self.check(*weight.shape)
        groups = weight.T.reshape(-1, self.m)
        order = groups.abs().argsort(dim=1, descending=True, stable=True)[:, : self.n]
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, value=True)
        return SparseLinear.masked(weight, mask.view(weight.T.shape).T, bias, order.numel())
