"""S-: the largest-magnitude entries of the whole W_proj, the others set to zero (section 2.2, Figure 1c).

Forward multiplies by a dense matrix that holds the zeros, which is mostly faster than compressed sparse rows
(docs/performance.md). `macs` counts the kept entries, as the paper's Table 2 does: what a sparse engine would compute.

Beyond the paper: with `calibration` every column of W keeps its entries of the largest |W_ij| sqrt(M_ii), where M is
the second moment of the inputs (`loda.calibration`): Wanda (Sun et al. 2024).
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from loda.approx import moment as moments
from loda.approx.dense import affine, frozen, kept_energy
from loda.errors import LodaError
from loda.settings import UNLESS_DEFAULT, settings


@settings
class SparseConfig:
    """`keep` = s, the fraction of entries kept (paper: 0.4 on E2E; 0.6 and 0.5 on DART).

    Attributes:
        calibration: how many training examples give the lengths of the inputs; 0 is the paper's largest entries.

    Raises:
        LodaError: keep outside (0, 1], or in `check` a fraction that keeps no entry.
    """

    name: ClassVar[str] = "sparse"
    is_projection: ClassVar[bool] = True  # also of other entries than the largest
    keep: float = Field(default=0.4, gt=0, le=1, description="the fraction of entries kept, 0.4 keeps 40 %")
    calibration: Annotated[int, Field(ge=0)] = dataclasses.field(default=0, metadata=UNLESS_DEFAULT)

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if no entry of a (d_in, d_out) weight would be kept."""
        if self.kept(d_in if self.calibration else d_in * d_out) < 1:  # calibrated: as many for every output
            raise LodaError(
                f"keep={self.keep} keeps no entry of the {d_in} x {d_out} projection; choose a larger fraction"
            )

    def kept(self, entries: int) -> int:
        """Return how many of `entries` are kept: s times their number, rounded to the nearest whole number."""
        return round(self.keep * entries)

    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> "SparseLinear":
        """Return the sparse approximation of `weight` (d_in, d_out), with `bias` (d_out,) as it is."""
        self.check(*weight.shape)
        if not self.calibration:
            return SparseLinear.largest(weight, weight.abs().flatten(), bias, self.kept(weight.numel()))
        scores = weight.abs()
        if not weight.is_meta:
            lengths = moments.given(moment, self.calibration, weight).diagonal().sqrt()
            scores = scores * lengths.to(weight.dtype)[:, None]
        return SparseLinear.largest(weight, scores.T, bias, self.kept(weight.shape[0]))


class SparseLinear(nn.Module):
    """h = x W_sparse + b: (*, d_in) -> (*, d_out).

    Args:
        weight: (d_in, d_out), with zeros.
        bias: (d_out,) or None.
        kept: the number of entries that are kept, a whole number.
        energy: kept fraction of the squared Frobenius norm (Figure 2b), a number.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kept: Tensor, energy: Tensor) -> None:
        super().__init__()
        self.weight = frozen(weight)
        self.bias = None if bias is None else frozen(bias)
        self.kept = nn.Buffer(kept)
        self.energy = nn.Buffer(energy)

    @classmethod
    @torch.no_grad()
    def largest(cls, weight: Tensor, scores: Tensor, bias: Tensor | None, kept: int) -> "SparseLinear":
        """Keep the entries of `weight` (d_in, d_out) that have the `kept` largest `scores` in each row of these.

        Among equal scores the first is kept. The rows are (d_in d_out,) for the whole weight, (d_out, d_in) for each
        of its columns.
        """
        order = scores.argsort(dim=-1, descending=True, stable=True)[..., :kept]
        mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, value=True)
        return cls.masked(weight, mask.view_as(weight) if mask.ndim == 1 else mask.T, bias, order.numel())

    @classmethod
    @torch.no_grad()
    def masked(cls, weight: Tensor, mask: Tensor, bias: Tensor | None, kept: int) -> "SparseLinear":
        """Keep the entries of `weight` (d_in, d_out) where `mask` is true, which are `kept`."""
        sparse = torch.where(mask, weight, 0).contiguous()
        return cls(sparse, bias, _number(kept, weight), kept_energy(weight, sparse))

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        return affine(x, self.weight, self.bias)

    def macs(self) -> int:
        """Multiply-accumulates per token: one for each kept entry, s 3d^2 for a d x 3d projection."""
        return int(self.kept)

    def split(self, widths: Sequence[int], biases: Sequence[Tensor | None]) -> Sequence[nn.Module]:
        """Cut the projection into neighbours of `widths` columns and count the kept entries of each.

        On the meta device there is nothing to count, and each neighbour has its share by width.
        """
        found = []
        for weight, bias in zip(self.weight.split(list(widths), dim=1), biases, strict=True):
            share = round(self.macs() * weight.shape[1] / self.weight.shape[1])
            kept = _number(share, weight) if weight.is_meta else weight.count_nonzero()
            found.append(SparseLinear(weight.contiguous(), bias, kept, self.energy))
        return found

    def extra_repr(self) -> str:
        """Shape and number of kept entries."""
        return f"{tuple(self.weight.shape)}" + ("" if self.kept.is_meta else f", kept={self.macs()}")


def _number(value: int, like: Tensor) -> Tensor:
    """Return `value` as a tensor beside `like`; on the CPU for the meta device, where it could not be read."""
    return torch.tensor(value, device="cpu" if like.is_meta else like.device)
