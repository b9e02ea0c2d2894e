"""Adapter^H (Houlsby et al., 2019): two bottlenecks in each transformer block, one for each sub-layer.

    y' = y + GELU(y W_down + b_down) W_up + b_up        y: output of attention, or of the feed-forward network,
                                                           before it joins the residual stream

One adapter has 2dr + r + d parameters: 48 with r = 112 have 11,064,576 on GPT2-medium. The paper prints 11.09M, a
number that no r gives (it is Adapter^L's); r = 112 is half of Adapter^L's 224, the equal budget. Houlsby et al. train
the model's own LayerNorms as well; that would give 11.11M or 11.16M, and they stay frozen here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from loda.adapters.insertion import SerialBottleneck, check_bottleneck
from loda.architectures import find_blocks
from loda.errors import LodaError
from loda.linear import placement
from loda.projection import AdaptedProjection


@dataclass(frozen=True)
class Config:
    """Settings of the adapters in the blocks; `slices` has no meaning for them.

    Attributes:
        r: width of the bottleneck.

    Raises:
        LodaError: r < 1.
    """

    r: int = 112

    def __post_init__(self) -> None:
        check_bottleneck(self.r)

    def check(self, model: nn.Module) -> None:
        """Raise LodaError where the sub-layers' outputs are not known."""
        if not all(block.outputs for block in find_blocks(model)):
            raise LodaError(
                "houlsby stands at the outputs of attention and feed-forward network, which the Layout of this "
                "architecture does not name; add outputs=(...) to it (see loda/architectures.py)"
            )

    def attach(self, model: nn.Module, projections: Mapping[str, AdaptedProjection], slices: Sequence[str]) -> None:
        """Put one adapter after the last projection of every sub-layer."""
        for block in find_blocks(model):
            for output in block.outputs:
                device, dtype = placement(output, model)
                Adapter(self, block.width).to(device, dtype).insert(output)


class Adapter(SerialBottleneck):
    """f(y) = GELU(y W_down + b_down) W_up + b_up, added to y: (*, d) -> (*, d)."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__(width, config.r)

    def forward(self, y: Tensor) -> Tensor:
        """(*, d) -> (*, d)."""
        update: Tensor = self.up(F.gelu(self.down(y)))
        return update
