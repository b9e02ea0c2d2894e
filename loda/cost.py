"""What a method costs: trainable parameters and multiply-accumulates per token (section 3 and Table 2).

Counted from the model itself, never from a formula over its configuration: each part reports its own.
"""

from dataclasses import dataclass
from typing import cast

from torch import nn

from loda.inject import adapter_parameters, is_mergeable, projections
from loda.protocols import Frozen


@dataclass(frozen=True)
class Cost:
    """Cost of the adapted projections of a model.

    Attributes:
        trainable_parameters: number of trained scalars (LoRA: 2rdL, LoDA and LoDA+: 2(rd + r^2)L).
        macs_per_token: multiply-accumulates to compute Q, K and V of all layers for one token, as the model stands.
        merged_macs_per_token: the same after `merge`; None where merging is impossible.
        base_macs_per_token: the same for the model without adapter and approximation, 3d^2 per layer.
        energy: mean over the layers of the kept fraction of ||W_proj||_F^2.
    """

    trainable_parameters: int
    macs_per_token: int
    merged_macs_per_token: int | None
    base_macs_per_token: int
    energy: float


def cost(model: nn.Module) -> Cost:
    """Count the cost of a model that `inject` was applied to.

    On the meta device everything but `energy` (then nan) is available, without any weights.

    Raises:
        LodaError: the model holds no adapters (for the plain model use `LodaConfig(adapter=NoAdapter())`).
    """
    mergeable = is_mergeable(model)
    adapted = list(projections(model).values())
    base = sum(p.d_in * max(stop for _, stop in p.slices.values()) for p in adapted)
    energies = [float("nan") if _on_meta(p) else cast(Frozen, p.frozen).energy for p in adapted]
    return Cost(
        trainable_parameters=sum(p.numel() for p in adapter_parameters(model).values()),
        macs_per_token=sum(p.macs() for p in adapted),
        merged_macs_per_token=base if mergeable else None,
        base_macs_per_token=base,
        energy=sum(energies) / len(energies),
    )


def _on_meta(module: nn.Module) -> bool:
    return any(p.is_meta for p in module.parameters())
