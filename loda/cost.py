"""What a method costs: trainable parameters and multiply-accumulates per token (section 3 and Table 2).

Counted from the model itself, never from a formula over its configuration: each part reports its own.

The paper counts Q, K and V alone. Beside them stands the whole model: every matrix that a token is multiplied by, the
vocabulary head and the modules of the adapter included, for GPT-2

    L 12 d^2 + V d        24 * 12 * 1024^2 + 50257 * 1024 = 353,453,056 for GPT2-medium

so that 2.5 times fewer multiply-accumulates for Q, K and V (R = 300) read as what they are, 1.15 times fewer for the
model. Attention itself, the scores and the weighted sum of values, is not in it, because it depends on the length:
2 n d more per layer for the n-th token (24 * 2 * 100 * 1024 = 4.9M at n = 100). A prefix is there for every token,
so its 2 length d per layer are counted. Look-ups, norms and activations are not, as in the paper.
"""

from dataclasses import dataclass
from math import prod
from typing import cast

from torch import nn

from loda.adapters.insertion import Insertion, insertions
from loda.architectures import is_linear, shape_of
from loda.interfaces import Frozen
from loda.model import adapter_state, is_mergeable, projections
from loda.projection import AdaptedProjection


@dataclass(frozen=True)
class Cost:
    """Cost of a model with adapters.

    Attributes:
        trainable_parameters: number of trained scalars (LoRA: 2rdL, LoDA and LoDA+: 2(rd + r^2)L). Of a prefix, those
            that are kept: the MLP that produces them in training is dropped afterwards.
        macs_per_token: multiply-accumulates to compute Q, K and V of all layers for one token, as the model stands.
        merged_macs_per_token: the same after `merge`; None where merging is impossible.
        base_macs_per_token: the same for the model without adapter and approximation, 3d^2 per layer.
        model_macs_per_token: multiply-accumulates of the whole model for one token, as it stands.
        base_model_macs_per_token: the same without adapter and approximation, and after `merge`.
        energy: mean over the layers of the kept fraction of ||W_proj||_F^2.
    """

    trainable_parameters: int
    macs_per_token: int
    merged_macs_per_token: int | None
    base_macs_per_token: int
    model_macs_per_token: int
    base_model_macs_per_token: int
    energy: float


def cost(model: nn.Module) -> Cost:
    """Count the cost of a model that `inject` was applied to.

    On the meta device everything but `energy` (then nan) is available, without any weights.

    Raises:
        LodaError: the model holds no adapters (for the plain model use `LodaConfig(adapter=NoAdapter())`).
    """
    mergeable = is_mergeable(model)
    adapted = list(projections(model).values())
    macs = sum(p.macs() for p in adapted)
    base = sum(p.d_in * p.d_out for p in adapted)
    whole = _macs(model)
    inserted = sum(insertion.macs() for insertion in insertions(model).values())
    energies = [float("nan") if _on_meta(p) else cast(Frozen, p.frozen).energy for p in adapted]
    return Cost(
        trainable_parameters=sum(p.numel() for p in adapter_state(model).values()),
        macs_per_token=macs,
        merged_macs_per_token=base if mergeable else None,
        base_macs_per_token=base,
        model_macs_per_token=whole,
        base_model_macs_per_token=whole - inserted - macs + base,
        energy=sum(energies) / len(energies),
    )


def _macs(module: nn.Module) -> int:
    """Multiply-accumulates of every matrix in `module` for one token."""
    if isinstance(module, (AdaptedProjection, Insertion)):
        return module.macs()
    own = prod(shape_of(module)) if is_linear(module) else 0
    return own + sum(_macs(child) for child in module.children())


def _on_meta(module: nn.Module) -> bool:
    return any(p.is_meta for p in module.parameters())
