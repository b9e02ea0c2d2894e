"""Adapter^H (Houlsby et al., 2019): two bottlenecks in each transformer block, one for each sub-layer.

    y' = y + GELU(y W_down + b_down) W_up + b_up        y: output of attention, or of the feed-forward network,
                                                           before it joins the residual stream

One adapter has 2dr + r + d parameters: 48 with r = 112 have 11,064,576 on GPT2-medium. No r gives the 11.09M that the
paper prints, which is Adapter^L's number with r = 224, an equal budget. Houlsby et al. also train the model's
LayerNorms, which would give 11.11M or 11.16M; they stay frozen here.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from loda.adapters.insertion import SerialBottleneck
from loda.architectures import find_blocks
from loda.errors import LodaError
from loda.settings import settings


@settings
class HoulsbyConfig:
    """Adapter^H: `r` is the width of the bottlenecks; `slices` has no effect.

    Raises:
        LodaError: r < 1.
    """

    name: ClassVar[str] = "houlsby"
    r: int = Field(default=112, ge=1, description="r is the width of the bottleneck")

    def check(self, model: nn.Module) -> None:
        """Raise LodaError if the outputs of the sub-layers are unknown."""
        if not all(block.outputs for block in find_blocks(model)):
            raise LodaError(
                "houlsby stands at the outputs of attention and feed-forward network, which the AttentionLayout of "
                "this architecture does not name; add outputs=(...) to it (see loda/architectures.py)"
            )

    def attach(self, model: nn.Module) -> None:
        """Put one adapter after the last projection of every sub-layer."""
        for block in find_blocks(model):
            for output in block.outputs:
                HoulsbyAdapter(block.width, self.r).insert(output, model)


class HoulsbyAdapter(SerialBottleneck):
    """f(y) = GELU(y W_down + b_down) W_up + b_up, added to y: (*, d) -> (*, d)."""

    def forward(self, y: Tensor) -> Tensor:
        """Map (*, d) to (*, d)."""
        update: Tensor = self.up(F.gelu(self.down(y)))
        return update
