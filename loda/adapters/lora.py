"""LoRA (Hu et al., 2022), the linear special case of LoDA: Delta h = s x A B, s = alpha / r.

Equal to `loralib.MergedLinear` with `enable_lora` on the adapted slices, of which A and B are one block each.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from loda.adapters.bottleneck import BottleneckConfig, Form, new_down, new_up


@dataclass(frozen=True)
class Config(BottleneckConfig):
    """r, alpha, dropout and init: see `BottleneckConfig`."""

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """The adapter of a (d_in, d_out) projection."""
        return Adapter(self, d_in, d_out)


class Adapter(nn.Module):
    """Delta h = s (x A) B with A (d_in, r), B (r, d_out), s = alpha / r: (*, d_in) -> (*, d_out)."""

    def __init__(self, config: Config, d_in: int, d_out: int) -> None:
        super().__init__()
        self.scale = config.scale
        self.A = new_down(d_in, config.r)
        self.B = new_up(config.r, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        return self.scale * (x @ self.A @ self.B)

    def weight(self) -> Tensor:
        """Delta W = s A B, (d_in, d_out)."""
        return self.scale * (self.A @ self.B)

    def form(self) -> Form:
        """Its parts in Eq. 2."""
        return Form(self.A, self.B, self.scale)

    def macs(self) -> int:
        """2rd per token for a d x d projection."""
        return self.A.numel() + self.B.numel()
