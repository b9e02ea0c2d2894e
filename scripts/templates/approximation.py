"""template: say what is left of W, and why.

    W~_ij = W_ij for the largest |W_ij| of each column j, else 0

A W~ with zeros is a `SparseLinear`; what has another form is a module of its own (`BaseProjection` in
`loda/interfaces.py`).
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from loda.approx.sparse import SparseLinear
from loda.errors import LodaError
from loda.settings import settings


@settings
class TemplateConfig:
    """Say what the settings mean.

    Attributes:
        keep: the fraction of the entries of each column that is kept.
    """

    name: ClassVar[str] = "template"
    keep: float = Field(default=0.5, gt=0, le=1)

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if the settings do not fit a (d_in, d_out) weight."""
        if round(self.keep * d_in) < 1:
            raise LodaError(f"keep={self.keep} keeps no entry of a column of {d_in}; choose a larger fraction")

    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> SparseLinear:
        """Return the approximation of `weight` (d_in, d_out), with `bias` (d_out,) as it is."""
        self.check(*weight.shape)
        return SparseLinear.largest(weight, weight.abs().T, bias, round(self.keep * weight.shape[0]))
