"""Quantised base projections, such as those of bitsandbytes."""

from typing import cast

from torch import Tensor, nn

from loda.errors import LodaError


class QuantizedLinear(nn.Module):
    """A quantised linear module, kept as it is: (*, d_in) -> (*, d_out).

    Adapters work beside it. It cannot be approximated, merged or fine-tuned.
    """

    energy = 1.0

    def __init__(self, module: nn.Module, d_in: int, d_out: int) -> None:
        super().__init__()
        self.module = module
        self.d_in, self.d_out = d_in, d_out

    @property
    def weight(self) -> Tensor:
        """The weight as the module holds it, in a layout of its own."""
        return cast(Tensor, self.module.weight)

    @property
    def bias(self) -> Tensor | None:
        """The bias (d_out,) or None."""
        return cast(Tensor | None, self.module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        # A copy: adapters add to it in place, which the backward pass of the module may not allow.
        h: Tensor = self.module(x).clone()
        return h

    def macs(self) -> int:
        """Multiply-accumulates per token: d_in d_out."""
        return self.d_in * self.d_out


def keep_layout(model: nn.Module) -> None:
    """Make the 4-bit modules of bitsandbytes in `model` keep their weights as they were loaded.

    On a CPU with AVX512-BF16 these modules rearrange their weights in place at the first forward pass without
    gradients. Afterwards no gradient flows through them, silently, and their bytes no longer identify the base.

    Raises:
        LodaError: a module was rearranged already. The model is unchanged.
    """
    modules = {n: m for n, m in model.named_modules() if getattr(m, "support_avx512bf16_for_cpu", False)}
    for name, module in modules.items():
        state = getattr(module.weight, "quant_state", None)  # none on the meta device
        if getattr(state, "packing_format_for_cpu", False):
            raise LodaError(
                f"the 4-bit weights of {name} were rearranged for this CPU by a forward pass, and no gradient flows "
                "through them since; load the base again and add adapters before its first forward pass"
            )
    for module in modules.values():
        module.support_avx512bf16_for_cpu = False
