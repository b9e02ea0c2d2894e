"""LoDA, Eq. 1 of the paper: a deep non-linear network inside LoRA's bottleneck, with a residual connection.

    Delta h = s (x A + f1(x A)) B

The image stays in the r-dimensional row space of B, the map is no longer linear. LoRA is the case f1 = 0.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from loda.adapters.bottleneck import BottleneckConfig, Form, new_down, new_up
from loda.adapters.nonlinear import Stack, StackConfig
from loda.errors import LodaError


@dataclass(frozen=True)
class Config(BottleneckConfig):
    """LoRA's settings and those of f1.

    Raises:
        LodaError: an f1 without a linear operation (it would have nothing to learn), or one that is always zero.
    """

    f1: StackConfig = field(default_factory=StackConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "linear" not in self.f1.operations:
            raise LodaError(
                f"f1.order={self.f1.order!r} has no linear operation; f1 needs its r x r matrices, "
                "write for example f1.order=linear-norm-activation"
            )
        if self.r == 1 and "norm" in self.f1.operations:
            raise LodaError(
                f"r=1 with f1.order={self.f1.order!r}: the LayerNorm of a single number is zero and so would be f1; "
                "use r=2 or more, or f1.order=linear-activation"
            )

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """The adapter of a (d_in, d_out) projection."""
        return Adapter(self, d_in, d_out)


class Adapter(nn.Module):
    """Delta h = s (x A B + f1(x A) B), Eq. 1, with A (d_in, r), B (r, d_out): (*, d_in) -> (*, d_out)."""

    def __init__(self, config: Config, d_in: int, d_out: int) -> None:
        super().__init__()
        self.scale = config.scale
        self.A = new_down(d_in, config.r)
        self.f1 = Stack(config.f1, config.r)
        self.B = new_up(config.r, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        u = x @ self.A
        # B is applied once to the sum: 2rd + 2r^2 multiply-accumulates, the paper's Table 2.
        delta: Tensor = self.scale * ((u + self.f1(u)) @ self.B)
        return delta

    def form(self) -> Form:
        """Its parts in Eq. 2."""
        return Form(self.A, self.B, self.scale, self.f1)

    def macs(self) -> int:
        """2rd + 2r^2 per token for a d x d projection and two stages."""
        return self.A.numel() + self.f1.macs() + self.B.numel()
