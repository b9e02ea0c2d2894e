"""Adapter^L (Lin et al., 2020): one bottleneck after each transformer block, with a LayerNorm before it.

    h' = h + ReLU(LN(h) W_down + b_down) W_up + b_up        h: output of the block

LN is trained. One adapter has 2dr + r + d + 2d parameters: 368,784 on GPT2-medium with r = 6 and 11,089,152 with
r = 224, the two rows of the paper's Table 1, which come from Li & Liang (2021).
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from loda.adapters.insertion import SerialBottleneck
from loda.architectures import find_blocks
from loda.settings import settings


@settings
class LinConfig:
    """Adapter^L: `r` is the width of the bottlenecks; `slices` has no effect.

    Raises:
        LodaError: r < 1.
    """

    name: ClassVar[str] = "lin"
    r: int = Field(default=6, ge=1, description="r is the width of the bottleneck")

    def check(self, model: nn.Module) -> None:
        """Raise LodaError if the blocks of `model` are unknown."""
        find_blocks(model)

    def attach(self, model: nn.Module) -> None:
        """Put one adapter after every block."""
        for block in find_blocks(model):
            LinAdapter(block.width, self.r).insert(block.module, model)


class LinAdapter(SerialBottleneck):
    """f(h) = ReLU(LN(h) W_down + b_down) W_up + b_up, added to h: (*, d) -> (*, d)."""

    def __init__(self, width: int, r: int) -> None:
        super().__init__(width, r)
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (*, d) to (*, d)."""
        update: Tensor = self.up(F.relu(self.down(self.norm(h))))
        return update
