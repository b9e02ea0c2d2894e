"""FT^{Wq,Wv}: fine-tuning of W_q and W_v themselves, written as in section 4.1 of the paper.

    W' = W + Delta W,   h' = x W + x Delta W = h_0 + Delta h

Delta W is a full d x d matrix that starts at zero. Its gradients and Adam updates are those of W. Only weight decay
differs from training W in place: it pulls towards the pre-trained W, not towards zero, unless `decay` says so.
"""

from dataclasses import field
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from loda.adapters.bottleneck import SliceAdapterConfig
from loda.projection import projections
from loda.settings import UNLESS_DEFAULT, settings


@settings
class FullRankConfig(SliceAdapterConfig):
    """FT^{Wq,Wv}: a Delta W for each slice.

    Attributes:
        dropout: on the input of Delta W; 0 by default.
        decay: where weight decay pulls W': to the "pretrained" W, or to "zero" as in training W in place.
    """

    name: ClassVar[str] = "full_rank"
    decay: Literal["pretrained", "zero"] = field(default="pretrained", metadata=UNLESS_DEFAULT)

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """Create the adapter of a (d_in, d_out) slice."""
        return DeltaWeight(torch.zeros(d_in, d_out))

    def attach(self, model: nn.Module) -> None:
        """Put one adapter beside each adapted slice; with decay="zero" its parameter is W' itself."""
        super().attach(model)
        if self.decay == "zero":
            for projection in projections(model).values():
                weight = _weight_of(projection.base, projection.d_in)
                for name, adapter in projection.adapters.items():
                    cast(DeltaWeight, adapter).start_at(projection.slices[name].of(weight).flatten(1))


class DeltaWeight(nn.Module):
    """Delta h = x Delta W, where Delta W (d_in, d_out) is a parameter minus where it started.

    It starts at zero, and then Delta W is the parameter; or at W, and then the parameter is W' = W + Delta W.
    """

    start: Tensor | None

    def __init__(self, delta: Tensor) -> None:
        super().__init__()
        self.delta = nn.Parameter(delta)
        self.register_buffer("start", None, persistent=False)

    @torch.no_grad()
    def start_at(self, weight: Tensor) -> None:
        """Let the parameter start at `weight` (d_in, d_out), which is subtracted from it in every use."""
        self.start = weight.to(self.delta).clone()
        self.delta.copy_(self.start)

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        return x @ self.weight()

    def weight(self) -> Tensor:
        """Delta W (d_in, d_out)."""
        return self.delta if self.start is None else self.delta - self.start

    def macs(self) -> int:
        """Multiply-accumulates per token: d^2, and none after merging."""
        return self.delta.numel()


@torch.no_grad()
def _weight_of(base: nn.Module, d_in: int) -> Tensor:
    """Return W~ (d_in, d_out) of any base projection h = x W~ + b; a quantised one holds it in a layout of its own."""
    like = next(p for p in base.parameters() if p.is_floating_point())
    rows = torch.cat([torch.zeros(1, d_in), torch.eye(d_in)]).to(like)
    h: Tensor = base(rows)
    return h[1:] - h[0]
