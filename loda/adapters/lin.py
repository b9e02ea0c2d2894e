"""Adapter^L (Lin et al., 2020): one bottleneck after each transformer block, with its own LayerNorm.

    h' = h + ReLU(LN(h) W_down + b_down) W_up + b_up        h: output of the block

LN is trained. One adapter has 2dr + r + d + 2d parameters: 368,784 on GPT2-medium with r = 6 and 11,089,152 with
r = 224, the two rows of the paper's Table 1, which come from Li & Liang (2021).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from loda.adapters.insertion import SerialBottleneck, check_bottleneck
from loda.architectures import find_blocks
from loda.linear import placement
from loda.projection import AdaptedProjection


@dataclass(frozen=True)
class Config:
    """Settings of the adapters after the blocks; `slices` has no meaning for them.

    Attributes:
        r: width of the bottleneck.

    Raises:
        LodaError: r < 1.
    """

    r: int = 6

    def __post_init__(self) -> None:
        check_bottleneck(self.r)

    def check(self, model: nn.Module) -> None:
        """Raise LodaError where the blocks are not known."""
        find_blocks(model)

    def attach(self, model: nn.Module, projections: Mapping[str, AdaptedProjection], slices: Sequence[str]) -> None:
        """Put one adapter after every block."""
        for block in find_blocks(model):
            device, dtype = placement(block.module, model)
            Adapter(self, block.width).to(device, dtype).insert(block.module)


class Adapter(SerialBottleneck):
    """f(h) = ReLU(LN(h) W_down + b_down) W_up + b_up, added to h: (*, d) -> (*, d)."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__(width, config.r)
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor) -> Tensor:
        """(*, d) -> (*, d)."""
        update: Tensor = self.up(F.relu(self.down(self.norm(h))))
        return update
