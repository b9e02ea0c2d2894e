"""Adapter^L and Adapter^H: bottlenecks after the blocks of the base, or after the sub-layers of each block.

    h' = h + ReLU(LN(h) W_down + b_down) W_up + b_up   Adapter^L (Lin et al., 2020), h: output of a block
    y' = y + GELU(y W_down + b_down) W_up + b_up       Adapter^H (Houlsby et al., 2019), y: output of attention or of
                                                       the feed-forward network, before it joins the residual stream

W_down is (d, r) and W_up is (r, d), where d is the width of the model.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from loda.adapters.insertion import Insertion
from loda.attention import find_blocks
from loda.errors import LodaError
from loda.settings import settings


class SerialBottleneck(Insertion):
    """f(y) = activation(LN(y) W_down + b_down) W_up + b_up, added to the output y of the host: (*, d) -> (*, d).

    W_down (d, r) starts as `nn.Linear` does. W_up (r, d) and b_up start at zero, so f is zero at the start. The papers
    start W_up at random values. The LayerNorm LN is trained; without `norm` there is none.
    """

    def __init__(self, width: int, r: int, activation: Callable[[Tensor], Tensor], norm: bool = False) -> None:
        super().__init__()
        self.down = nn.Linear(width, r)
        self.up = nn.Linear(r, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.norm = nn.LayerNorm(width) if norm else None
        self.activation = activation

    def forward(self, y: Tensor) -> Tensor:
        """Map (*, d) to (*, d)."""
        normed = y if self.norm is None else self.norm(y)
        return cast(Tensor, self.up(self.activation(self.down(normed))))

    def hook(self, host: nn.Module) -> list[RemovableHandle]:
        """Add f(y) to the output of `host`."""
        return [host.register_forward_hook(self._add)]

    def macs(self) -> int:
        """Multiply-accumulates per token: 2rd."""
        return self.down.weight.numel() + self.up.weight.numel()

    def _add(self, host: nn.Module, arguments: Any, output: Any) -> Any:
        # Some blocks return their attention weights after the output.
        if isinstance(output, tuple):
            return (self._add(host, arguments, output[0]), *output[1:])
        return output + self(output.to(self.up.weight.dtype)).to(output.dtype)


@settings
class LinConfig:
    """Adapter^L (Lin et al., 2020): one bottleneck of width `r` after each block; `slices` has no effect.

    One adapter has 2dr + r + 3d parameters: 368,784 on GPT2-medium with r = 6 and 11,089,152 with r = 224, the two rows
    of the paper's Table 1, which come from Li & Liang (2021).

    Raises:
        LodaError: r < 1, or in `check` an unknown architecture.
    """

    name: ClassVar[str] = "lin"
    r: int = Field(default=6, ge=1, le=65536, description="r is the width of the bottleneck")

    def check(self, model: nn.Module, adapted: Sequence[str]) -> None:
        """Raise LodaError if the blocks of `model` are unknown."""
        find_blocks(model)

    def attach(self, model: nn.Module) -> None:
        """Put one adapter after every block."""
        for block in find_blocks(model):
            SerialBottleneck(block.width, self.r, F.relu, norm=True).insert(block.module, model)


@settings
class HoulsbyConfig:
    """Adapter^H (Houlsby et al., 2019): two bottlenecks of width `r` in each block; `slices` has no effect.

    One adapter has 2dr + r + d parameters: 48 with r = 112 have 11,064,576 on GPT2-medium. No r gives the 11.09M that
    the paper prints, which is Adapter^L's number with r = 224, an equal budget. Houlsby et al. also train the model's
    LayerNorms, which would give 11.11M or 11.16M; they stay frozen here.

    Raises:
        LodaError: r < 1, or in `check` an architecture that does not name its outputs.
    """

    name: ClassVar[str] = "houlsby"
    r: int = Field(default=112, ge=1, le=65536, description="r is the width of the bottleneck")

    def check(self, model: nn.Module, adapted: Sequence[str]) -> None:
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
                SerialBottleneck(block.width, self.r, F.gelu).insert(output, model)
