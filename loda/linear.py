"""The affine map on row vectors, in the kernels of the modules that hold weights, and where these weights are."""

import torch
from torch import Tensor, nn
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


def placement(module: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where what is added to a module of `model` belongs: its device, and the dtype that it computes in.

    A quantised module holds integers, and computes in the dtype of the rest of the model.
    """
    parameters = [*module.parameters(), *model.parameters()]
    return parameters[0].device, next(p.dtype for p in parameters if p.is_floating_point())
