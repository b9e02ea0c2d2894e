"""No adapter: the pre-trained model as it is, or its approximation alone. Nothing is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from loda.projection import AdaptedProjection


@dataclass(frozen=True)
class Config:
    """No settings."""

    def check(self, model: nn.Module) -> None:
        """Every model fits."""

    def attach(self, model: nn.Module, projections: Mapping[str, AdaptedProjection], slices: Sequence[str]) -> None:
        """Attach nothing."""
