"""FT^{Wq,Wv}: fine-tuning of W_q and W_v themselves, written as in section 4.1 of the paper.

    W' = W + Delta W,   h' = x W + x Delta W = h_0 + Delta h

Delta W is a full d x d matrix that starts at zero. Its gradients and Adam updates are those of W. Only weight decay
differs from training W in place: it pulls towards the pre-trained W, not towards zero.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from loda.adapters.bottleneck import SliceAdapterConfig
from loda.settings import settings


@settings
class FullRankConfig(SliceAdapterConfig):
    """FT^{Wq,Wv}: a Delta W for each slice; `dropout` acts on its input and is 0 by default."""

    name: ClassVar[str] = "full_rank"

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """Create the adapter of a (d_in, d_out) slice."""
        return DeltaWeight(d_in, d_out)


class DeltaWeight(nn.Module):
    """Delta h = x Delta W with Delta W (d_in, d_out): (*, d_in) -> (*, d_out)."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(d_in, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        return x @ self.delta

    def weight(self) -> Tensor:
        """Delta W (d_in, d_out)."""
        return self.delta

    def macs(self) -> int:
        """Multiply-accumulates per token: d^2, and none after merging."""
        return self.delta.numel()
