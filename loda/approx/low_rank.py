"""R-: the truncated singular value decomposition of the whole W_proj (section 2.2, Figure 1d).

    W ~ W_A W_B,   W_A = U_R S_R^(1/2) (d, R),   W_B = S_R^(1/2) V_R^T (R, 3d)

This is the best rank-R approximation in the Frobenius norm (Eckart-Young). Forward computes (x W_A) W_B and never the
product W_A W_B: 4Rd multiply-accumulates instead of 3d^2, which is less if R < 3d/4 (section 3.2).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from loda.approx.dense import affine, frozen
from loda.errors import LodaError
from loda.settings import settings

TINY = 1e-150
"""Replaces a singular value of zero as the divisor; its row of S V^T is zero anyway."""


@settings
class LowRankConfig:
    """`rank` = R, the number of singular values kept (paper: 300 of 1024 on E2E; 500, 400, 300 on DART).

    Raises:
        LodaError: rank < 1, or in `check` a rank above min(d_in, d_out).
    """

    name: ClassVar[str] = "low_rank"
    is_projection: ClassVar[bool] = True
    rank: int = Field(default=300, ge=1, description="the paper uses 300, 400 and 500")

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if a (d_in, d_out) weight has fewer singular values than `rank`."""
        if self.rank > min(d_in, d_out):
            raise LodaError(
                f"rank={self.rank} exceeds min(d, 3d) = {min(d_in, d_out)} of the {d_in} x {d_out} projection; "
                f"choose a rank from 1 to {min(d_in, d_out)}"
            )

    def approximate(self, weight: Tensor, bias: Tensor | None) -> "LowRankLinear":
        """Return the rank-R approximation of `weight` (d_in, d_out), with `bias` (d_out,) as it is."""
        self.check(*weight.shape)
        return LowRankLinear.from_weight(weight, bias, self.rank)


class LowRankLinear(nn.Module):
    """h = (x W_A) W_B + b: (*, d_in) -> (*, d_out).

    Args:
        W_A: (d_in, R).
        W_B: (R, d_out).
        bias: (d_out,) or None.
        energy: sum of the R largest squared singular values over the sum of all (Figure 2a), a number.
    """

    def __init__(self, W_A: Tensor, W_B: Tensor, bias: Tensor | None, energy: Tensor) -> None:  # noqa: N803
        super().__init__()
        self.W_A = frozen(W_A)
        self.W_B = frozen(W_B)
        self.bias = None if bias is None else frozen(bias)
        self.energy = nn.Buffer(energy)

    @classmethod
    @torch.no_grad()
    def from_weight(cls, weight: Tensor, bias: Tensor | None, rank: int) -> "LowRankLinear":
        """Decompose `weight` (d_in, d_out) in float64; the factors have its dtype.

        U holds the eigenvectors of W W^T, which take a fifth of the time of an SVD. The eigenvalues have lost half of
        the digits of small singular values, so S comes from the row lengths of U^T W = S V^T. The sign of a singular
        vector is arbitrary: here the largest entry of each column of U is positive.
        """
        exact = weight.double()
        u = torch.linalg.eigh(exact @ exact.T).eigenvectors[:, -rank:].flip(1)
        u *= torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
        scaled = u.T @ exact
        s = scaled.norm(dim=1)
        root = s.sqrt()
        # Contiguous, as the factors are once stored and read back: the order in memory decides how products round.
        return cls(
            (u * root).to(weight.dtype).contiguous(),
            (scaled / root.clamp(min=TINY)[:, None]).to(weight.dtype).contiguous(),
            bias,
            # Not float64: MPS does not have it, and a model with one such number could not be moved there.
            (s.square().sum() / exact.square().sum()).to(torch.promote_types(weight.dtype, torch.float32)),
        )

    @property
    def weight(self) -> Tensor:
        """W_A W_B (d_in, d_out), multiplied each time that it is asked for."""
        return self.W_A @ self.W_B

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        return affine(x @ self.W_A, self.W_B, self.bias)

    def macs(self) -> int:
        """Multiply-accumulates per token: R (d_in + d_out), which is 4Rd for a d x 3d projection."""
        return self.W_A.numel() + self.W_B.numel()

    def split(self, widths: Sequence[int], biases: Sequence[Tensor | None]) -> Sequence[nn.Module]:
        """Cut the projection into neighbours of `widths` columns: the same W_A, and columns of W_B."""
        parts = zip(self.W_B.split(list(widths), dim=1), biases, strict=True)
        return [LowRankLinear(self.W_A, part.contiguous(), bias, self.energy) for part, bias in parts]

    def extra_repr(self) -> str:
        """Shape and rank."""
        return f"{self.W_A.shape[0]} x {self.W_B.shape[1]}, rank={self.W_A.shape[1]}"
