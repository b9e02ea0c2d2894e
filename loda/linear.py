"""The affine map on row vectors, in the kernel that transformers' Conv1D uses."""

import torch
from torch import Tensor


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h = x W + b: (*, d_in) -> (*, d_out).

    `addmm`, as in transformers' `Conv1D`, so that an unadapted slice is bit-identical to the base model.
    """
    rows = x.reshape(-1, x.shape[-1])
    h = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return h.view(*x.shape[:-1], weight.shape[-1])
