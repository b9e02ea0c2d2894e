"""Fine-tuning W_q and W_v themselves (FT^{Wq,Wv} of the paper), written as the paper's section 4.1 does.

    W' = W + Delta W,   h' = x W + x Delta W = h_0 + Delta h

Delta W is a full d x d matrix that starts at zero. Gradients and Adam's updates of Delta W are those of W; the one
difference to training W in place is that weight decay pulls towards the pre-trained W, not towards zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loda.adapters.bottleneck import ProjectionAdapterConfig


@dataclass(frozen=True)
class Config(ProjectionAdapterConfig):
    """No settings of its own; `dropout` acts on the input of Delta W and defaults to none."""

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """The adapter of a (d_in, d_out) projection."""
        return Adapter(self, d_in, d_out)


class Adapter(nn.Module):
    """Delta h = x Delta W with Delta W (d_in, d_out): (*, d_in) -> (*, d_out)."""

    def __init__(self, config: Config, d_in: int, d_out: int) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(d_in, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        return x @ self.delta

    def weight(self) -> Tensor:
        """Delta W, (d_in, d_out)."""
        return self.delta

    def macs(self) -> int:
        """d^2 per token until merged, nothing after."""
        return self.delta.numel()
