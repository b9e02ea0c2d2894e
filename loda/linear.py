"""The affine map on row vectors, in the kernels of the modules that hold weights."""

import torch
from torch import Tensor
from torch.nn import functional as F


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h = x W + b: (*, d_in) -> (*, d_out).

    `addmm`, as in transformers' `Conv1D`, and for the transposed view of an `nn.Linear`'s weight that module's own
    kernel, so that an unadapted slice is bit-identical to the base model.
    """
    if is_transposed(weight):
        return F.linear(x, weight.T, bias)
    rows = x.reshape(-1, x.shape[-1])
    h = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return h.view(*x.shape[:-1], weight.shape[-1])


def is_transposed(weight: Tensor) -> bool:
    """Whether `weight` (d_in, d_out) is a view of a matrix (d_out, d_in) in memory, as `nn.Linear` holds it."""
    return weight.T.is_contiguous() and not weight.is_contiguous()
