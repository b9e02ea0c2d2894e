"""No adapter: the pre-trained model as it is, or its approximation alone. Nothing is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from loda.projection import AdaptedProjection


@dataclass(frozen=True)
class Config:
    """No settings."""

    def attach(self, model: nn.Module, projections: Mapping[str, AdaptedProjection], slices: Sequence[str]) -> None:
        """Attach nothing."""


class Adapter(nn.Module):
    """Delta h = 0, for completeness of the protocol: (*, d_in) -> (*, d_out)."""

    def __init__(self, config: Config, d_in: int, d_out: int) -> None:
        super().__init__()
        self.d_out = d_out

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> zeros of (*, d_out)."""
        return x.new_zeros(*x.shape[:-1], self.d_out)

    def macs(self) -> int:
        """Nothing is computed."""
        return 0
