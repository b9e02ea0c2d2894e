"""No approximation: the pre-trained weight itself, shared with the base model, not copied."""

from collections.abc import Mapping, Sequence
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

    def split(self, tensors: Mapping[str, Tensor], widths: Sequence[int]) -> list[dict[str, Tensor]]:
        """The parts of the weight, `widths` columns each."""
        return [{"weight": part} for part in tensors["weight"].split(list(widths), dim=1)]

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

    def factors(self) -> tuple[Tensor, ...]:
        """W alone."""
        return (self.weight,)

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


class Kept(nn.Module):
    """A linear module kept as it is, because it holds its weight in a form of its own: quantised, say.

    It can be adapted, but not approximated, merged or fine-tuned.
    """

    def __init__(self, module: nn.Module, d_in: int, d_out: int) -> None:
        super().__init__()
        self.module = module
        self.d_in, self.d_out = d_in, d_out

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        # A copy, because adapters add to it in place, which the module's own backward pass may not allow.
        h: Tensor = self.module(x).clone()
        return h

    def macs(self) -> int:
        """d_in d_out."""
        return self.d_in * self.d_out

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    @property
    def energy(self) -> float:
        """All of it."""
        return 1.0
