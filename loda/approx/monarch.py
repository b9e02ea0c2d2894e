"""Monarch: a product of two block-diagonal matrices with a permutation between (Dao et al. 2022), with a rank.

W is cut into `blocks` x `blocks` pieces, and each is replaced by its truncated singular value decomposition:

    W_ij ~ A_ij B_ij,   A_ij (d_in / blocks, rank),   B_ij (rank, d_out / blocks)
    h_j = sum_i (x_i A_ij) B_ij

All A_ij of one i stand side by side in a block of the first matrix, all B_ij of one j on top of each other in a block
of the second. Every piece is approximated on its own, so this is the closed-form projection: the best W~ of this form
in the Frobenius norm. Rank 1 is the Monarch of the paper; one block is the low-rank approximation.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from loda.approx.dense import frozen
from loda.errors import LodaError
from loda.settings import settings


@settings
class MonarchConfig:
    """`blocks` pieces along each side, each of `rank`.

    Raises:
        LodaError: a setting below 1, or in `check` a weight that cannot be cut so, or a rank above its pieces'.
    """

    name: ClassVar[str] = "monarch"
    is_projection: ClassVar[bool] = True
    blocks: int = Field(default=4, ge=1)
    rank: int = Field(default=32, ge=1)

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if a (d_in, d_out) weight cannot be cut into pieces of this rank."""
        if d_in % self.blocks or d_out % self.blocks:
            raise LodaError(
                f"blocks={self.blocks} does not divide the {d_in} x {d_out} projection; choose a divisor of both"
            )
        largest = min(d_in, d_out) // self.blocks
        if self.rank > largest:
            raise LodaError(f"rank={self.rank} exceeds the {largest} of a piece; choose a rank from 1 to {largest}")

    @torch.no_grad()
    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> "MonarchLinear":
        """Return the Monarch approximation of `weight` (d_in, d_out), with `bias` (d_out,) as it is."""
        self.check(*weight.shape)
        n, rank, exact = self.blocks, self.rank, weight.double()
        pieces = exact.unflatten(1, (n, -1)).unflatten(0, (n, -1)).transpose(1, 2)  # (i, j, d_in / n, d_out / n)
        u, s, v = torch.linalg.svd(pieces, full_matrices=False)
        u, s, v = u[..., :rank], s[..., :rank], v[..., :rank, :]
        down, up = u * s.sqrt()[..., None, :], s.sqrt()[..., None] * v
        first = down.permute(0, 2, 1, 3).flatten(2)  # (i, d_in / n, j rank)
        second = up.transpose(0, 1).flatten(1, 2)  # (j, i rank, d_out / n)
        energy = s.square().sum() / exact.square().sum()
        return MonarchLinear(
            first.to(weight.dtype).contiguous(),
            second.to(weight.dtype).contiguous(),
            bias,
            energy.to(torch.promote_types(weight.dtype, torch.float32)),
        )


class MonarchLinear(nn.Module):
    """h_j = sum_i (x_i A_ij) B_ij + b_j: (*, d_in) -> (*, d_out), two batched products.

    Args:
        first: (n, d_in / n, n rank), the A_ij of every i side by side.
        second: (n, n rank, d_out / n), the B_ij of every j on top of each other.
        bias: (d_out,) or None.
        energy: 1 - ||W - W~||^2 / ||W||^2, a number.
    """

    def __init__(self, first: Tensor, second: Tensor, bias: Tensor | None, energy: Tensor) -> None:
        super().__init__()
        self.first = frozen(first)
        self.second = frozen(second)
        self.bias = None if bias is None else frozen(bias)
        self.energy = nn.Buffer(energy)

    @property
    def weight(self) -> Tensor:
        """W~ (d_in, d_out), multiplied each time that it is asked for."""
        n = len(self.first)
        down, up = self.first.unflatten(2, (n, -1)), self.second.unflatten(1, (n, -1))  # (i, p, j, k), (j, i, k, q)
        return torch.einsum("ipjk,jikq->ipjq", down, up).flatten(2).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        n = len(self.first)
        rows = x.reshape(-1, n, x.shape[-1] // n).transpose(0, 1)  # (i, tokens, d_in / n)
        u = torch.bmm(rows, self.first).unflatten(2, (n, -1))  # (i, tokens, j, rank)
        h = torch.bmm(u.permute(2, 1, 0, 3).flatten(2), self.second).transpose(0, 1).flatten(1)
        return (h if self.bias is None else h + self.bias).view(*x.shape[:-1], n * self.second.shape[2])

    def macs(self) -> int:
        """Multiply-accumulates per token: n rank (d_in + d_out)."""
        return self.first.numel() + self.second.numel()

    def extra_repr(self) -> str:
        """Shapes of the two products."""
        return f"{tuple(self.first.shape)} -> {tuple(self.second.shape)}"
