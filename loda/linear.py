"""The affine map on row vectors, in the kernels of the modules that hold weights, and where these weights are."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loda.errors import LodaError


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


def keep_layout(model: nn.Module) -> None:
    """Let the 4-bit modules of bitsandbytes in `model` keep their weights as they were loaded.

    On a CPU with AVX512-BF16 they lay them out anew, in place and in bfloat16, at the first forward pass without
    gradients. After that no gradient flows through them, without a word, and their bytes no longer tell the base.

    Raises:
        LodaError: that has happened to one already. The model is untouched then.
    """
    modules = {n: m for n, m in model.named_modules() if getattr(m, "support_avx512bf16_for_cpu", False)}
    for name, module in modules.items():
        state = getattr(module.weight, "quant_state", None)  # none on the meta device
        if getattr(state, "packing_format_for_cpu", False):
            raise LodaError(
                f"the 4-bit weights of {name} were laid out anew for this CPU by a forward pass, and no gradient flows "
                "through them since; load the base again and add adapters before its first forward pass"
            )
    for module in modules.values():
        module.support_avx512bf16_for_cpu = False
