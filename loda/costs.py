"""What a method costs: trainable parameters and multiply-accumulates per token (section 3 and Table 2).

The paper counts Q, K and V alone. Beside it stands the whole model: all its matrices, with the vocabulary head and the
adapter, 12 d^2 in each layer and V d in the head. That is 24 * 12 * 1024^2 + 50257 * 1024 = 353,453,056 for
GPT2-medium. With R = 300, Q, K and V take 2.5 times fewer multiply-accumulates, the whole model 1.15 times fewer.
"""

from dataclasses import dataclass
from math import prod
from typing import cast

from torch import nn

from loda.adapters.insertion import Insertion, insertions
from loda.architectures import is_linear, shape_of
from loda.interfaces import BaseProjection
from loda.merging import is_mergeable
from loda.model import adapter_state
from loda.projection import AdaptedProjection, projections
from loda.wrappers import on_inner_model


@dataclass(frozen=True)
class Cost:
    """Cost of a model with adapters, in trainable parameters and multiply-accumulates (MACs) per token.

    Look-ups, norms and activations are not counted, as in the paper. Attention's scores and weighted sums are not
    counted either, because they depend on the length: 2 n d more per layer for the n-th token (24 * 2 * 100 * 1024 =
    4.9M at n = 100). A prefix costs every token the same 2 length d per layer, which are counted.

    Attributes:
        trainable_parameters: for each adapted matrix 2rd with LoRA, 2(rd + r^2) with LoDA and LoDA+. Of a prefix,
            those that are saved, without the MLP that produces them in training. With those of `modules_to_save`.
        macs_per_token: MACs for Q, K and V of all layers, with adapter and approximation; with `targets`, for these.
        merged_macs_per_token: the same after `merge`; None if the adapter cannot be merged.
        base_macs_per_token: the same without adapter and approximation, 3d^2 per layer.
        model_macs_per_token: MACs of the whole model, with adapter and approximation.
        base_model_macs_per_token: the same without adapter and approximation, and after `merge`.
        energy: kept fraction of ||W_proj||_F^2, the mean over the layers; nan without weights.
    """

    trainable_parameters: int
    macs_per_token: int
    merged_macs_per_token: int | None
    base_macs_per_token: int
    model_macs_per_token: int
    base_model_macs_per_token: int
    energy: float

    @property
    def model_share(self) -> float:
        """What is left of the multiply-accumulates of the whole model, 1 without approximation and adapter."""
        return self.model_macs_per_token / self.base_model_macs_per_token


@on_inner_model
def cost(model: nn.Module) -> Cost:
    """Count the cost of a model with adapters, module by module; on the meta device everything but `energy`.

    Raises:
        LodaError: the model holds no adapters; for the plain model inject `LodaConfig(adapter=NoAdapter())`.
    """
    trained = adapter_state(model)
    adapted = list(projections(model).values())
    macs = sum(p.macs() for p in adapted)
    base = sum(p.d_in * p.d_out for p in adapted)
    whole = _macs(model)
    inserted = sum(insertion.macs() for insertion in insertions(model).values())
    has_weights = not any(p.is_meta for projection in adapted for p in projection.parameters())
    energies = [float(cast(BaseProjection, p.base).energy) if has_weights else float("nan") for p in adapted]
    return Cost(
        trainable_parameters=sum(p.numel() for p in trained.values()),
        macs_per_token=macs,
        merged_macs_per_token=base if is_mergeable(model) else None,
        base_macs_per_token=base,
        model_macs_per_token=whole,
        base_model_macs_per_token=whole - inserted - macs + base,
        energy=sum(energies) / len(energies),
    )


def _macs(module: nn.Module) -> int:
    """Return the multiply-accumulates of every matrix in `module` for one token."""
    if isinstance(module, (AdaptedProjection, Insertion)):
        return module.macs()
    own = prod(shape_of(module)) if is_linear(module) else 0
    return own + sum(_macs(child) for child in module.children())
