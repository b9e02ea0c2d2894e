"""Columns: some of the inputs, the others left out, which are whole columns of an `nn.Linear`'s weight.

    h = x[S] W~[S] + b,   S the inputs of the largest ||W_i|| sqrt(M_ii)

Without `calibration`, M = I and W~[S] = W[S]. With the second moment M of the inputs (`loda.calibration`), what is left
is fitted to the outputs: W~[S] = (M_SS + damping mean(diag M) I)^-1 M_S: W, the least squares solution. The kept rows
are one smaller dense matrix, so this structure is faster than dense wherever it computes less.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from loda.approx import moment as moments
from loda.approx.dense import affine, frozen, kept_energy
from loda.errors import LodaError
from loda.settings import UNLESS_DEFAULT, settings


@settings
class ColumnsConfig:
    """`keep` = the fraction of inputs kept.

    Attributes:
        calibration: how many training examples give the second moment of the inputs; 0 looks at the weights alone.
        damping: what is added to the diagonal of the moment, as a fraction of the diagonal's mean.

    Raises:
        LodaError: keep outside (0, 1], or in `check` a fraction that keeps no input.
    """

    name: ClassVar[str] = "columns"
    keep: float = Field(default=0.4, gt=0, le=1, description="the fraction of inputs kept, 0.4 keeps 40 %")
    calibration: int = Field(default=0, ge=0)
    damping: float = dataclasses.field(default=moments.DAMPING, metadata=UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        if not self.damping > 0 or (self.damping != moments.DAMPING and not self.calibration):
            raise LodaError(f"damping={self.damping} must be more than 0, and has no effect without calibration")

    @property
    def is_projection(self) -> bool:
        """Whether W~ is an orthogonal projection of W."""
        return not self.calibration

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if no input of a (d_in, d_out) weight would be kept."""
        if round(self.keep * d_in) < 1:
            raise LodaError(f"keep={self.keep} keeps none of the {d_in} inputs of the {d_in} x {d_out} projection")

    @torch.no_grad()
    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> "ColumnsLinear":
        """Return the projection over the kept inputs of `weight` (d_in, d_out), with `bias` (d_out,) as it is."""
        self.check(*weight.shape)
        exact, kept = weight.double(), round(self.keep * len(weight))
        scores, found = exact.norm(dim=1), None
        if self.calibration and not weight.is_meta:
            found = moments.given(moment, self.calibration, weight)
            scores = scores * found.diagonal().sqrt()
        index = scores.argsort(descending=True, stable=True)[:kept].sort().values
        rows = exact[index]
        if found is not None:
            # The damped moment on both sides, so that inputs that do not vary together stay as they are.
            whole = moments.damped(found, self.damping)
            rows = torch.cholesky_solve(whole[index] @ exact, moments.root(found, self.damping, index))
        rows = rows.to(weight.dtype).contiguous()
        energy = kept_energy(weight, torch.zeros_like(weight).index_copy(0, index, rows))
        return ColumnsLinear(rows, index, len(weight), bias, energy)


class ColumnsLinear(nn.Module):
    """h = x[S] W_S + b: (*, d_in) -> (*, d_out).

    Args:
        kept: W_S (|S|, d_out).
        index: S (|S|,), in order.
        d_in: the number of inputs.
        bias: (d_out,) or None.
        energy: 1 - ||W - W~||^2 / ||W||^2, a number.
    """

    def __init__(self, kept: Tensor, index: Tensor, d_in: int, bias: Tensor | None, energy: Tensor) -> None:
        super().__init__()
        self.kept = frozen(kept)
        self.index = nn.Buffer(index)
        self.d_in = d_in
        self.bias = None if bias is None else frozen(bias)
        self.energy = nn.Buffer(energy)

    @property
    def weight(self) -> Tensor:
        """W~ (d_in, d_out), with zeros, made each time that it is asked for."""
        whole = self.kept.new_zeros(self.d_in, self.kept.shape[1])
        return whole.index_copy(0, self.index, self.kept)

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        return affine(x.index_select(-1, self.index), self.kept, self.bias)

    def macs(self) -> int:
        """Multiply-accumulates per token: |S| d_out."""
        return self.kept.numel()

    def split(self, widths: Sequence[int], biases: Sequence[Tensor | None]) -> Sequence[nn.Module]:
        """Cut the projection into neighbours of `widths` columns of W, over the same inputs."""
        parts = zip(self.kept.split(list(widths), dim=1), biases, strict=True)
        return [ColumnsLinear(part.contiguous(), self.index, self.d_in, bias, self.energy) for part, bias in parts]

    def extra_repr(self) -> str:
        """Shape and number of kept inputs."""
        return f"{self.d_in} x {self.kept.shape[1]}, inputs={self.kept.shape[0]}"
