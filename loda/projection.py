"""AdaptedProjection: one base projection and the adapters of its slices.

    h = x W~ + b            the frozen base, once for all slices
    h[slice] += f_slice(x)  one adapter for each adapted slice

Every method of the paper is a pair of the two: S-LoDA+ is (sparse, loda_plus), LoRA is (dense, lora). The base acts
on the whole d x 3d matrix, the adapters on slices of it (the paper's footnote 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from loda.interfaces import Adapter, BaseProjection


@dataclass(frozen=True)
class FusedSlice:
    """The columns of one slice (q, k or v) of a projection's output.

    The output is `runs` equal parts side by side, and the slice is columns start .. stop - 1 of each part.
    [W_q, W_k, W_v] is a single part. GPT-NeoX and BLOOM store head by head, [q_1, k_1, v_1, q_2, k_2, v_2, ...], in as
    many parts as heads.
    """

    start: int
    stop: int
    runs: int = 1

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.runs * (self.stop - self.start)

    def of(self, h: Tensor) -> Tensor:
        """View the slice in h (*, d_out): (*, width), or (*, runs, width / runs) for several runs."""
        return self._by_run(h)[..., self.start : self.stop]

    def add_(self, h: Tensor, update: Tensor, scale: float = 1.0) -> None:
        """Compute h[slice] += scale * update in place: h (*, d_out), update (*, width)."""
        self.of(h).add_(self._by_run(update), alpha=scale)

    def _by_run(self, h: Tensor) -> Tensor:
        return h if self.runs == 1 else h.unflatten(-1, (self.runs, -1))


class AdaptedProjection(nn.Module):
    """h = x W~ + b, then h[slice] += adapter(dropout(x)) for every adapted slice: `(*, d_in)` to `(*, d_out)`.

    All adapters of one projection see the same dropout mask, as in LoRA's code.

    Args:
        base: a `BaseProjection`.
        slices: the slices of the output by name, for example {"q": FusedSlice(0, d), ...}; together they cover it.
        d_in: width of the input.
        adapted: names of the slices that get an adapter, in the order in which the adapters are created.
        transposed: whether `weight` shows the base's weight as (d_out, d_in), like `nn.Linear`.
    """

    def __init__(
        self,
        base: nn.Module,
        slices: Mapping[str, FusedSlice],
        d_in: int,
        adapted: Sequence[str] = (),
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.base = base
        self.slices = dict(slices)
        self.d_in = d_in
        self.adapted = tuple(adapted)
        self.transposed = transposed
        self.dropout = nn.Dropout(0.0)
        self.adapters = nn.ModuleDict()

    def adapt(self, name: str, adapter: nn.Module, dropout: float) -> None:
        """Put `adapter` beside the slice `name`; `dropout` holds for all adapters of this projection."""
        self.adapters[name] = adapter.train(self.training)
        self.dropout.p = dropout

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return sum(fused.width for fused in self.slices.values())

    # Models look at these of their linear modules, T5 for example at the weight's dtype.

    @property
    def in_features(self) -> int:
        """d_in, as in `nn.Linear`."""
        return self.d_in

    @property
    def out_features(self) -> int:
        """d_out, as in `nn.Linear`."""
        return self.d_out

    @property
    def weight(self) -> Tensor:
        """The weight of the base, in the layout of the module that was replaced; without the adapters."""
        weight = cast(Tensor, self.base.weight)
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base (d_out,) or None."""
        return cast(Tensor | None, self.base.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*, d_in)` to `(*, d_out)`."""
        h: Tensor = self.base(x)
        if not self.adapters:
            return h
        x = self.dropout(x)
        if x.dtype != torch.float32:
            # Adapters of a half-precision base are fp32; their update is added in fp32 and then rounded.
            x = x.to(next(self.adapters.parameters()).dtype)
        for name, adapter in self.adapters.items():
            # In place, so that the other slices stay bit-identical to the base.
            self.slices[name].add_(h, adapter(x))
        return h

    def macs(self) -> int:
        """Multiply-accumulates per token of the base and all adapters."""
        parts = cast(list[BaseProjection | Adapter], [self.base, *self.adapters.values()])
        return sum(part.macs() for part in parts)


def projections(model: nn.Module) -> dict[str, AdaptedProjection]:
    """Return the adapted projections of `model` by module name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedProjection)}


def placement(module: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype for modules that are added beside `module` of `model`.

    A quantised module holds integers and computes in the dtype of the rest of the model.
    """
    parameters = [*module.parameters(), *model.parameters()]
    return parameters[0].device, next(p.dtype for p in parameters if p.is_floating_point())
