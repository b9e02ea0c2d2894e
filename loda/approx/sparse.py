"""S-: the largest-magnitude entries of the whole W_proj, the rest set to zero (section 2.2, Figure 1c).

The forward map multiplies by a dense matrix that holds the zeros: with the paper's 40 to 60 % kept entries compressed
sparse rows were slower on a CPU for a single token, and faster only around ten at a time (docs/performance.md). `macs`
counts the kept entries, as the paper's Table 2 does; it says what a sparse engine would compute, not what this module
saves in time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loda.errors import LodaError
from loda.linear import affine


@dataclass(frozen=True)
class Config:
    """`keep` = s, the fraction of entries kept (paper: 0.4 on E2E; 0.6 and 0.5 on DART).

    Raises:
        LodaError: keep outside (0, 1].
    """

    keep: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise LodaError(f"keep={self.keep} must lie in (0, 1]: it is the fraction of entries kept, 0.4 keeps 40 %")

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError where not one entry would be kept."""
        if self.kept(d_in * d_out) < 1:
            raise LodaError(
                f"keep={self.keep} keeps no entry of the {d_in} x {d_out} projection; choose a larger fraction"
            )

    def kept(self, entries: int) -> int:
        """How many of `entries` are kept: s times them, rounded to the nearest whole number."""
        return round(self.keep * entries)

    @torch.no_grad()
    def approximate(self, weight: Tensor) -> dict[str, Tensor]:
        """The masked weight (d_in, d_out), its number of kept entries and the kept energy.

        Exactly `kept` entries remain; among equal magnitudes the first in row order.
        """
        self.check(*weight.shape)
        flat = weight.flatten()
        kept = self.kept(flat.numel())
        largest = flat.abs().argsort(descending=True, stable=True)[:kept]
        sparse = torch.zeros_like(flat)
        sparse[largest] = flat[largest]
        return {
            "weight": sparse.view_as(weight),
            "kept": torch.tensor(kept),
            "energy": sparse.double().square().sum() / flat.double().square().sum(),
        }

    def split(self, tensors: Mapping[str, Tensor], widths: Sequence[int]) -> list[dict[str, Tensor]]:
        """Neighbouring parts of the masked weight, `widths` columns each.

        How many of the kept entries are in which part is counted; on the meta device, where there is nothing to
        count, each part has its share by width.
        """
        weight, kept = tensors["weight"], int(tensors["kept"])
        parts = [part.contiguous() for part in weight.split(list(widths), dim=1)]
        shares = [round(kept * width / weight.shape[1]) for width in widths]
        counts = [torch.tensor(n) if p.is_meta else p.count_nonzero() for p, n in zip(parts, shares, strict=True)]
        return [{**tensors, "weight": p, "kept": n} for p, n in zip(parts, counts, strict=True)]

    def build(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> nn.Module:
        """The frozen projection over the masked weight."""
        return Frozen(tensors, bias)


class Frozen(nn.Module):
    """h = x W_sparse + b: (*, d_in) -> (*, d_out)."""

    def __init__(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensors["weight"], requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.kept = int(tensors["kept"])
        self._energy = tensors["energy"]

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        return affine(x, self.weight, self.bias)

    def dense(self) -> Tensor:
        """The masked weight, (d_in, d_out)."""
        return self.weight

    def factors(self) -> tuple[Tensor, ...]:
        """The masked weight alone."""
        return (self.weight,)

    def macs(self) -> int:
        """s 3d^2: one multiply-accumulate for each kept entry."""
        return self.kept

    def tensors(self) -> dict[str, Tensor]:
        """What `Config.build` takes."""
        return {"weight": self.weight, "kept": torch.tensor(self.kept), "energy": self._energy}

    @property
    def energy(self) -> float:
        """Kept fraction of the squared Frobenius norm (Figure 2b)."""
        return float(self._energy)

    def extra_repr(self) -> str:
        """Shape and number of kept entries."""
        return f"{tuple(self.weight.shape)}, kept={self.kept}"
