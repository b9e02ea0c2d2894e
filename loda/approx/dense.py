"""No approximation: the pre-trained weight itself, shared with the base model and not copied."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loda.settings import settings


@settings
class DenseConfig:
    """Keep W_proj as it is. There are no settings."""

    name: ClassVar[str] = "dense"

    def check(self, d_in: int, d_out: int) -> None:
        """Accept every shape."""

    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> "DenseLinear":
        """Return the projection over `weight` (d_in, d_out) and `bias` (d_out,)."""
        return DenseLinear(weight, bias)


class DenseLinear(nn.Module):
    """h = x W + b, bit-identical to the module it replaces: (*, d_in) -> (*, d_out).

    The kernel is that of the module: `F.linear` if W is the `transposed` weight of an `nn.Linear`, else `addmm`, as of
    transformers' `Conv1D`. The weight and the bias are the module's own, not copies.
    """

    energy = 1.0

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = frozen(weight)
        self.bias = None if bias is None else frozen(bias)
        self.transposed = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        if self.transposed:
            return F.linear(x, self.weight.T, self.bias)
        return affine(x, self.weight, self.bias)

    def macs(self) -> int:
        """Multiply-accumulates per token: 3d^2 for a d x 3d projection."""
        return self.weight.numel()

    def extra_repr(self) -> str:
        """Shape."""
        return f"{tuple(self.weight.shape)}"


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute h = x W + b with W (d_in, d_out): (*, d_in) -> (*, d_out), by the kernel of transformers' `Conv1D`."""
    rows = x.reshape(-1, x.shape[-1])
    h = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return h.view(*x.shape[:-1], weight.shape[-1])


def frozen(tensor: Tensor) -> nn.Parameter:
    """Return `tensor` if it is a parameter, else a parameter without gradient over its memory."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)


def kept_energy(weight: Tensor, approximated: Tensor) -> Tensor:
    """Return 1 - ||W - W~||^2 / ||W||^2, a number."""
    total = weight.double().square().sum()
    lost = (weight.double() - approximated.double()).square().sum()
    # Not float64: MPS does not have it, and a model with one such number could not be moved there.
    return (1 - lost / total).to(torch.promote_types(weight.dtype, torch.float32))
