"""template: say what the method adds, with its formula and source.

Delta h = x A B,   A (d_in, r), B (r, d_out)
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from loda.adapters.bottleneck import SliceAdapterConfig
from loda.settings import settings


@settings
class TemplateConfig(SliceAdapterConfig):
    """Say what the settings mean.

    Attributes:
        r: width of the bottleneck.
    """

    name: ClassVar[str] = "template"
    r: int = Field(default=4, ge=1, le=65536)

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """Create the adapter of a (d_in, d_out) slice."""
        return Template(d_in, d_out, self.r)


class Template(nn.Module):
    """Delta h = x A B, which is zero at the start because B is."""

    def __init__(self, d_in: int, d_out: int, r: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(d_in, r) * d_in**-0.5)
        self.B = nn.Parameter(torch.zeros(r, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        return x @ self.A @ self.B

    def weight(self) -> Tensor:
        """Delta W (d_in, d_out), for merging; leave the method out if the map is not linear."""
        return self.A @ self.B

    def macs(self) -> int:
        """Multiply-accumulates per token."""
        return self.A.numel() + self.B.numel()
