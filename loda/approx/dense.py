"""No approximation: the pre-trained weight itself, shared with the base model, not copied."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from loda.linear import affine


@dataclass(frozen=True)
class Config:
    """No settings."""

    def check(self, d_in: int, d_out: int) -> None:
        """Every weight fits."""

    def approximate(self, weight: Tensor) -> dict[str, Tensor]:
        """The weight itself."""
        return {"weight": weight}

    def build(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> nn.Module:
        """The frozen projection over `tensors`."""
        return Frozen(tensors, bias)


class Frozen(nn.Module):
    """h = x W + b, bit-identical to the module it replaces: (*, d_in) -> (*, d_out)."""

    def __init__(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensors["weight"], requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        return affine(x, self.weight, self.bias)

    def dense(self) -> Tensor:
        """W, (d_in, d_out)."""
        return self.weight

    def macs(self) -> int:
        """3d^2 for a d x 3d projection."""
        return self.weight.numel()

    def tensors(self) -> dict[str, Tensor]:
        """What `Config.build` takes."""
        return {"weight": self.weight}

    @property
    def energy(self) -> float:
        """All of it."""
        return 1.0

    def extra_repr(self) -> str:
        """Shape."""
        return f"{tuple(self.weight.shape)}"
