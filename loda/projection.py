"""AdaptedProjection: one frozen projection and the adapters of its slices, composed.

    h = x W~ + b            the frozen map, once for all slices
    h[slice] += f_slice(x)  one adapter for each adapted slice

Every method of the paper is a choice of the two parts: S-LoDA+ is (sparse, loda_plus), LoRA is (dense, lora). The
approximation acts on the whole d x 3d matrix, the adapters on slices of it (the paper's footnote 2). All adapters
of one projection see the same dropped-out input: one mask for q and v, as in LoRA's code. Where a model has three
modules for q, k and v, each is a projection of one slice.
"""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from loda.columns import Columns
from loda.interfaces import Adapter, Frozen


class AdaptedProjection(nn.Module):
    """h = x W~ + b, and h[slice] += adapter(dropout(x)) for every adapted slice: (*, d_in) -> (*, d_out).

    Args:
        frozen: a module that follows the `Frozen` protocol.
        slices: name -> columns of the output, for example {"q": Columns(0, d), ...}; together they are all of it.
        d_in: width of the input.
    """

    def __init__(self, frozen: nn.Module, slices: Mapping[str, Columns], d_in: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.slices = dict(slices)
        self.d_in = d_in
        self.dropout = nn.Dropout(0.0)
        self.adapters = nn.ModuleDict()

    def adapt(self, name: str, adapter: nn.Module, dropout: float) -> None:
        """Put `adapter` beside the slice `name`; the dropout is one for all adapters of this projection."""
        self.adapters[name] = adapter.train(self.training)
        self.dropout.p = dropout

    def width(self, name: str) -> int:
        """Output width of the slice `name`."""
        return self.slices[name].width

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return sum(columns.width for columns in self.slices.values())

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        h: Tensor = self.frozen(x)
        if not self.adapters:
            return h
        x = self.dropout(x)
        for name, adapter in self.adapters.items():
            # In place, so that the other slices stay bit-identical to the frozen map.
            self.slices[name].add_(h, adapter(x))
        return h

    def macs(self) -> int:
        """Multiply-accumulates per token of the frozen map and all adapters."""
        parts = cast(list[Frozen | Adapter], [self.frozen, *self.adapters.values()])
        return sum(part.macs() for part in parts)
