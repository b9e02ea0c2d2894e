"""R-: the truncated singular value decomposition of the whole W_proj (section 2.2, Figure 1d).

    W ~ W_A W_B,   W_A = U_R S_R^(1/2) (d, R),   W_B = S_R^(1/2) V_R^T (R, 3d)

By Eckart-Young the best rank-R approximation in the Frobenius norm. The product is never formed: forward computes
(x W_A) W_B with 4Rd multiply-accumulates instead of 3d^2, less as long as R < 3d/4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loda.errors import LodaError
from loda.linear import affine

TINY = 1e-150
"""Stands in for a vanishing singular value, whose row of V^T is then zero."""


@dataclass(frozen=True)
class Config:
    """`rank` = R, the number of singular values kept (paper: 300 of 1024 on E2E; 500, 400, 300 on DART).

    Raises:
        LodaError: rank < 1; `check` and `approximate` raise it for a rank above min(d_in, d_out).
    """

    rank: int = 300

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise LodaError(f"rank={self.rank} must be at least 1; the paper uses 300, 400 and 500")

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError for a rank that a (d_in, d_out) weight cannot have."""
        if self.rank > min(d_in, d_out):
            raise LodaError(
                f"rank={self.rank} exceeds min(d, 3d) = {min(d_in, d_out)} of the {d_in} x {d_out} projection; "
                f"choose a rank from 1 to {min(d_in, d_out)}"
            )

    @torch.no_grad()
    def approximate(self, weight: Tensor) -> dict[str, Tensor]:
        """W_A (d_in, R), W_B (R, d_out) and the kept energy of `weight` (d_in, d_out).

        In float64, from the eigenvectors U of W W^T, which takes a fifth of the time of an SVD. The eigenvalues have
        lost half of the digits of small singular values, so these are the lengths of the rows of U^T W = S V^T.
        Each left singular vector gets a positive largest entry, because a decomposition leaves the signs open.
        """
        self.check(*weight.shape)
        exact = weight.double()
        u = torch.linalg.eigh(exact @ exact.T).eigenvectors[:, -self.rank :].flip(1)
        u *= torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
        scaled = u.T @ exact
        s = scaled.norm(dim=1)
        root = s.sqrt()
        # Contiguous, as they are once stored and read back: the order in memory decides how a product is rounded.
        return {
            "W_A": (u * root).to(weight.dtype).contiguous(),
            "W_B": (scaled / root.clamp(min=TINY)[:, None]).to(weight.dtype).contiguous(),
            "energy": s.square().sum() / exact.square().sum(),
        }

    def split(self, tensors: Mapping[str, Tensor], widths: Sequence[int]) -> list[dict[str, Tensor]]:
        """The factors of neighbouring parts, `widths` columns each: the same W_A, and columns of W_B."""
        parts = tensors["W_B"].split(list(widths), dim=1)
        return [{**tensors, "W_B": part.contiguous()} for part in parts]

    def build(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> nn.Module:
        """The frozen projection over the factors."""
        return Frozen(tensors, bias)


class Frozen(nn.Module):
    """h = (x W_A) W_B + b: (*, d_in) -> (*, d_out)."""

    def __init__(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self.W_A = nn.Parameter(tensors["W_A"], requires_grad=False)
        self.W_B = nn.Parameter(tensors["W_B"], requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._energy = tensors["energy"]

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        return affine(x @ self.W_A, self.W_B, self.bias)

    def dense(self) -> Tensor:
        """W_A W_B, (d_in, d_out)."""
        return self.W_A @ self.W_B

    def factors(self) -> tuple[Tensor, ...]:
        """W_A and W_B."""
        return (self.W_A, self.W_B)

    def macs(self) -> int:
        """R (d_in + d_out) = 4Rd for a d x 3d projection."""
        return self.W_A.numel() + self.W_B.numel()

    def tensors(self) -> dict[str, Tensor]:
        """What `Config.build` takes."""
        return {"W_A": self.W_A, "W_B": self.W_B, "energy": self._energy}

    @property
    def energy(self) -> float:
        """Sum of the R largest squared singular values over the sum of all (Figure 2a)."""
        return float(self._energy)

    def extra_repr(self) -> str:
        """Shape and rank."""
        return f"{self.W_A.shape[0]} x {self.W_B.shape[1]}, rank={self.W_A.shape[1]}"
