"""Fewer and larger products for an adapted model: the same outputs, to rounding, in less time.

The linear term of Eq. 2 goes into the weight of the base projection, and A becomes further columns of that weight:
    dense, sparse   [h, u] = x [W + s A B, A] + b                      one product instead of one for each adapter
    low-rank        [z, u] = x [W_A, A],   h = [z, u] [W_B; s B] + b   the linear term is r more ranks
    then            h[slice] += s f2(f1(u) B)                          for every slice with an f1
"""

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loda.adapters.bottleneck import Bottleneck
from loda.adapters.nonlinear import apply_stack
from loda.approx.dense import DenseLinear, affine
from loda.approx.low_rank import LowRankLinear
from loda.approx.sparse import SparseLinear
from loda.errors import LodaError
from loda.interfaces import LinearAdapter, is_linear_adapter
from loda.model import Model, fold, mark_optimized, state_of
from loda.precision import narrow
from loda.projection import AdaptedProjection, projections
from loda.wrappers import on_inner_model


@on_inner_model
@torch.no_grad()
def optimize_for_inference(model: Model) -> Model:
    """Replace the adapted projections of `model` by faster ones that compute the same to rounding, in place.

    Afterwards the model runs only in evaluation mode, nothing in it requires gradients, and it can be neither saved,
    merged nor unloaded: keep the saved adapter. A projection stays as it is if its base is quantised, if an adapter is
    neither a `Bottleneck` nor linear, or if a full Delta W stands over a low-rank weight.

    Raises:
        LodaError: no adapters, optimised already, or the model is in training mode. The model is unchanged.
    """
    state_of(model)
    if model.training:
        raise LodaError("the model is in training mode; call model.eval() before loda.optimize_for_inference(model)")
    narrow(model)
    for name, projection in projections(model).items():
        if _has_fast_form(projection):
            projection.adapters.to(next(projection.base.parameters()).dtype)
            model.set_submodule(name, InferenceProjection(projection).eval())
    mark_optimized(fold(model).requires_grad_(False))
    return model


def _has_fast_form(projection: AdaptedProjection) -> bool:
    low_rank = isinstance(projection.base, LowRankLinear)
    return (low_rank or isinstance(projection.base, (DenseLinear, SparseLinear))) and all(
        isinstance(a, Bottleneck) or (is_linear_adapter(a) and not low_rank) for a in projection.adapters.values()
    )


class InferenceProjection(nn.Module):
    """What an `AdaptedProjection` computes, in evaluation mode and without gradients: (*, d_in) -> (*, d_out).

    The f1 of all slices run as one batch, because the number of such small operations decides the time. All bottlenecks
    of the projection must have the same settings, as `loda.inject` gives them.
    """

    def __init__(self, projection: AdaptedProjection) -> None:
        super().__init__()
        self.slices, self.d_out = projection.slices, projection.d_out
        bottlenecks = {name: a for name, a in projection.adapters.items() if isinstance(a, Bottleneck)}
        f1s = {name: a.f1 for name, a in bottlenecks.items() if a.f1 is not None}
        second: Tensor | None = None
        if isinstance(projection.base, LowRankLinear):
            first, beside = projection.base.W_A.detach(), [a.A for a in bottlenecks.values()]
            second = _with_ranks(projection.base.W_B, projection)
        else:
            first, beside = _with_linear_terms(projection), [bottlenecks[name].A for name in f1s]
        self.begin = first.shape[1]
        self.first = nn.Buffer(torch.cat([first, *beside], dim=1))
        self.second = None if second is None else nn.Buffer(second)
        bias, last = cast(Tensor | None, projection.base.bias), self.first if second is None else second
        padding = (0, last.shape[1] - self.d_out)  # zeros for the columns x A of the last product
        self.bias = None if bias is None else nn.Buffer(F.pad(bias.detach(), padding))
        self.nonlinear = nn.ModuleDict({name: bottlenecks[name] for name in f1s})
        self.f1 = next((f1.config for f1 in f1s.values()), None)
        stages = zip(*(f1.linears for f1 in f1s.values()), strict=True)
        matrices = [torch.stack([cast(nn.Linear, linear).weight.T for linear in stage]) for stage in stages]
        self.matrices = nn.Buffer(torch.stack(matrices) if matrices else first.new_empty(0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out).

        Raises:
            LodaError: the model is in training mode, or gradients would flow through it.
        """
        if self.training or (x.requires_grad and torch.is_grad_enabled()):
            raise LodaError(
                "this model was optimised for inference and cannot be trained; load the base and the adapter again, "
                "or call it in evaluation mode under torch.inference_mode()"
            )
        rows = x.reshape(-1, x.shape[-1])
        if self.second is None:
            product = affine(rows, self.first, self.bias)
            h = product[:, : self.d_out]
        else:
            product = rows @ self.first
            h = affine(product, self.second, self.bias)
        if self.f1 is not None:
            u = product[:, self.begin :].unflatten(-1, (len(self.nonlinear), -1)).transpose(0, 1)
            v = apply_stack(self.f1, u, [partial(torch.bmm, mat2=matrix) for matrix in self.matrices])
            for part, (name, module) in zip(v, self.nonlinear.items(), strict=True):
                bottleneck = cast(Bottleneck, module)
                delta = part @ bottleneck.B
                self.slices[name].add_(h, delta if bottleneck.f2 is None else bottleneck.f2(delta), bottleneck.scale)
        return h.view(*x.shape[:-1], self.d_out)

    def extra_repr(self) -> str:
        """Shapes of the products."""
        return " -> ".join(str(tuple(factor.shape)) for factor in (self.first, self.second) if factor is not None)


def _with_linear_terms(projection: AdaptedProjection) -> Tensor:
    """Return W + s A B, or W + Delta W, on the columns of every adapter."""
    weight = cast(DenseLinear, projection.base).weight.clone(memory_format=torch.contiguous_format)
    for name, adapter in projection.adapters.items():
        if isinstance(adapter, Bottleneck):
            projection.slices[name].add_(weight, adapter.A @ adapter.B, adapter.scale)
        else:
            projection.slices[name].add_(weight, cast(Tensor, cast(LinearAdapter, adapter).weight()))
    return weight


def _with_ranks(second: Tensor, projection: AdaptedProjection) -> Tensor:
    """Return [W_B; s B]: below W_B, the rows of every bottleneck's B in the columns of its slice."""
    ranks = [second]
    for name, bottleneck in projection.adapters.items():
        up = cast(Bottleneck, bottleneck).B
        ranks.append(second.new_zeros(up.shape[0], second.shape[1]))
        projection.slices[name].add_(ranks[-1], up, cast(Bottleneck, bottleneck).scale)
    return torch.cat(ranks)
