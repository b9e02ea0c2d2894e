"""LoDA+, Eq. 2 of the paper: a non-linear function after B as well, so that the image is a manifold.

    Delta h = s (x A B + f2(f1(x A) B))

There is one matrix B, applied twice: to x A and to f1(x A). f2 has no parameters, so LoDA+ has exactly as many as
LoDA. The first term spans a linear subspace, the second a non-linear manifold; LoRA is the case f1 = 0.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from loda.adapters.bottleneck import Form, new_down, new_up
from loda.adapters.loda import Config as LoDAConfig
from loda.adapters.nonlinear import F2_DEFAULT, Stack, StackConfig
from loda.errors import LodaError


@dataclass(frozen=True)
class Config(LoDAConfig):
    """LoDA's settings and those of f2.

    The default f2 is the activation alone. A LayerNorm after B (f2.order=norm-activation) is allowed and not
    recommended: B starts at zero, where LayerNorm divides by sqrt(eps) and inflates B's gradient.

    Raises:
        LodaError: an f2 with a linear operation (f2 has no parameters in the paper).
    """

    f2: StackConfig = F2_DEFAULT

    def __post_init__(self) -> None:
        super().__post_init__()
        if "linear" in self.f2.operations:
            raise LodaError(
                f"f2.order={self.f2.order!r} has a linear operation; f2 has no parameters, "
                "write f2.order=activation, norm-activation or activation-norm"
            )

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """The adapter of a (d_in, d_out) projection."""
        return Adapter(self, d_in, d_out)


class Adapter(nn.Module):
    """Delta h = s (x A B + f2(f1(x A) B)), Eq. 2, with A (d_in, r), B (r, d_out): (*, d_in) -> (*, d_out)."""

    def __init__(self, config: Config, d_in: int, d_out: int) -> None:
        super().__init__()
        self.scale = config.scale
        self.A = new_down(d_in, config.r)
        self.f1 = Stack(config.f1, config.r)
        self.B = new_up(config.r, d_out)
        self.f2 = Stack(config.f2, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        u = x @ self.A
        delta: Tensor = self.scale * (u @ self.B + self.f2(self.f1(u) @ self.B))
        return delta

    def form(self) -> Form:
        """Its parts in Eq. 2."""
        return Form(self.A, self.B, self.scale, self.f1, self.f2)

    def macs(self) -> int:
        """3rd + 2r^2 per token for a d x d projection: B is applied twice (Table 2: 76.1M against 75.9M)."""
        return self.A.numel() + self.f1.macs() + 2 * self.B.numel()
