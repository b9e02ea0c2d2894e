"""Quantised base projections: weights that are rounded here, and modules that were loaded quantised.

    int8   W_ij ~ s_j q_ij,          s_j = max_i |W_ij| / 127,  q whole numbers
    nf4    W_t  ~ s_[t / 64] c(q_t), s the largest magnitude of every 64 entries, c the 16 levels of QLoRA's NormalFloat

and with a `correction` of rank k, the truncated singular value decomposition of what the rounding loses,

    W ~ Q(W) + [W - Q(W)]_k          as in ZeroQuant-V2 (Yao et al. 2023)

Forward and backward multiply by the weight as restored each time: this saves memory and no time.
`loda.optimize_for_inference(model, int8=True)` multiplies integers.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from loda.approx.dense import frozen, kept_energy
from loda.approx.low_rank import LowRankLinear
from loda.errors import LodaError
from loda.settings import settings

BLOCK = 64
"""Entries of nf4 that share a scale."""
# Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero: QLoRA (Dettmers et al. 2023), appendix E.
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


@settings
class QuantizedConfig:
    """Round W_proj to `dtype`, with a low-rank `correction` of the error.

    Attributes:
        dtype: int8, one scale for each output, or nf4, one for every 64 entries in a row of the stored (d_in, d_out).
        correction: the rank of the correction, 0 for none.

    Raises:
        LodaError: in `check` a rank above min(d_in, d_out), or for nf4 outputs in an odd number.
    """

    name: ClassVar[str] = "quantized"
    dtype: Literal["int8", "nf4"] = "int8"
    correction: int = Field(default=0, ge=0)

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if the settings do not fit a (d_in, d_out) weight."""
        if self.correction > min(d_in, d_out):
            raise LodaError(
                f"correction={self.correction} exceeds min(d_in, d_out) = {min(d_in, d_out)} of the {d_in} x {d_out} "
                "projection; lower it"
            )
        if self.dtype == "nf4" and d_out % 2:
            raise LodaError(f"dtype=nf4 stores two entries in a byte, but the projection has {d_out} outputs; use int8")

    @torch.no_grad()
    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> "RoundedLinear":
        """Return the rounded `weight` (d_in, d_out), with `bias` (d_out,) as it is."""
        self.check(*weight.shape)
        codes, scale = round_int8(weight) if self.dtype == "int8" else _nf4(weight)
        restored, correction = _restore(codes, scale, weight.shape[1]), None
        if self.correction:
            lost = weight - restored
            correction = LowRankLinear.from_weight(lost, None, self.correction)
            restored = restored + correction.weight
        return RoundedLinear(codes, scale, weight.shape[1], bias, kept_energy(weight, restored), correction)


class RoundedLinear(nn.Module):
    """h = x Q(W) + (x C_A) C_B + b: (*, d_in) -> (*, d_out).

    Args:
        codes: int8 (d_in, d_out), or for nf4 two codes in a byte, uint8 (d_in, d_out / 2).
        scale: (d_out,), or for nf4 (d_in, ceil(d_out / 64)).
        d_out: the number of outputs.
        bias: (d_out,) or None.
        energy: 1 - ||W - W~||^2 / ||W||^2, a number.
        correction: the factors C_A C_B, or None.
    """

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        d_out: int,
        bias: Tensor | None,
        energy: Tensor,
        correction: LowRankLinear | None,
    ) -> None:
        super().__init__()
        self.codes = nn.Buffer(codes)
        self.scale = frozen(scale)
        self.d_out = d_out
        self.bias = None if bias is None else frozen(bias)
        self.energy = nn.Buffer(energy)
        self.correction = correction

    @property
    def weight(self) -> Tensor:
        """W~ (d_in, d_out), restored each time that it is asked for."""
        weight = _restore(self.codes, self.scale, self.d_out)
        return weight if self.correction is None else weight + self.correction.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        h: Tensor = _Product.apply(x, self.codes, self.scale, self.d_out)
        h = h if self.bias is None else h + self.bias
        return h if self.correction is None else h + self.correction(x)

    def macs(self) -> int:
        """Multiply-accumulates per token: d_in d_out, and those of the correction."""
        return len(self.codes) * self.d_out + (0 if self.correction is None else self.correction.macs())

    def split(self, widths: Sequence[int], biases: Sequence[Tensor | None]) -> Sequence[nn.Module]:
        """Cut the projection into neighbours of `widths` columns.

        Raises:
            LodaError: nf4 and widths that are no multiples of 64, where columns on both sides share scales.
        """
        four = self.codes.dtype == torch.uint8
        if four and any(width % BLOCK for width in widths):
            raise LodaError(
                f"dtype=nf4 shares scales over {BLOCK} columns, and widths {list(widths)} cut them; use int8"
            )
        codes = self.codes.split([width // 2 if four else width for width in widths], dim=1)
        scales = self.scale.split([width // BLOCK if four else width for width in widths], dim=-1)
        corrections = (
            [None] * len(widths) if self.correction is None else self.correction.split(widths, [None] * len(widths))
        )
        return [
            RoundedLinear(
                part.contiguous(), scale.contiguous(), width, bias, self.energy, cast(LowRankLinear, correction)
            )
            for part, scale, width, bias, correction in zip(codes, scales, widths, biases, corrections, strict=True)
        ]

    def extra_repr(self) -> str:
        """Shape and type."""
        return f"{len(self.codes)} x {self.d_out}, {'int8' if self.codes.dtype == torch.int8 else 'nf4'}"


class _Product(torch.autograd.Function):
    """x Q(W), which keeps the codes for the backward pass and not the restored weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, d_out: int) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.d_out = d_out
        return x @ _restore(codes, scale, d_out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scale = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ _restore(codes, scale, ctx.d_out).T.to(gradient.dtype), None, None, None


def round_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes (d_in, d_out) of `weight` and their scale (d_out,)."""
    scale = weight.abs().amax(0).float() / 127
    codes = (weight.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)).round()
    return codes.clamp(-127, 127).to(torch.int8), scale.to(weight.dtype)


def _nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    d_out = weight.shape[1]
    tiles = F.pad(weight.float(), (0, -d_out % BLOCK)).unflatten(1, (-1, BLOCK))
    scale = tiles.abs().amax(2)
    levels = weight.new_tensor(LEVELS, dtype=torch.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(tiles / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None], middles)
    first, second = codes.flatten(1)[:, :d_out].to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    return (first * 16 + second).contiguous(), scale.to(weight.dtype)


def _restore(codes: Tensor, scale: Tensor, d_out: int) -> Tensor:
    """Return Q(W) (d_in, d_out) in the dtype of `scale`."""
    if codes.dtype == torch.int8:
        return codes.to(scale.dtype) * scale
    both = torch.stack([codes // 16, codes % 16], dim=2).flatten(1).long()
    levels = torch.tensor(LEVELS, dtype=scale.dtype, device=codes.device)[both]
    return levels * scale.repeat_interleave(BLOCK, dim=1)[:, :d_out]


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
