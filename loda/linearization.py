"""The linear map that is nearest to a trained adapter: a LoRA, which other software loads and `loda.merge` merges.

    min over D of rank k:  mean ||f(x) - x D||^2        D = L^-T [L^-1 C]_k

with M = mean x^T x, damped, = L L^T and C = mean x^T f(x) over the inputs x of the calibration, and [.]_k the truncated
singular value decomposition. Without the bound k this is least squares, D = M^-1 C. Then ||f(x) - x D||^2 over
||f(x)||^2 says how non-linear the adapter is on these inputs.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from loda.adapters import LoRA
from loda.adapters.bottleneck import Bottleneck
from loda.approx import moment as moments
from loda.approx.group import state_dict
from loda.errors import LodaError
from loda.model import inject, state_of, unload
from loda.projection import AdaptedProjection, projections
from loda.wrappers import on_inner_model


@dataclass(frozen=True)
class LinearFit:
    """How well a linear map does what the adapter of one slice did.

    Attributes:
        module: the name of the projection.
        slice: the name of its slice.
        error: mean ||f(x) - x D||^2 over mean ||f(x)||^2 for D of the asked rank.
        nonlinearity: the same for D of any rank: what no linear map does.
    """

    module: str
    slice: str
    error: float
    nonlinearity: float


@on_inner_model
@torch.no_grad()
def linearize(
    model: nn.Module, rank: int, batches: Iterable[Tensor], damping: float = moments.DAMPING
) -> list[LinearFit]:
    """Replace the adapters of `model` by the LoRA of `rank` that is nearest to them, in place.

    Args:
        model: an adapted model in evaluation mode, whose adapters stand beside projections.
        rank: k, the rank of the LoRA.
        batches: token ids (examples, length) on the device of the model, without padding, as in training.
        damping: what is added to the diagonal of M, as a fraction of the diagonal's mean.

    Raises:
        LodaError: no adapters, adapters that do not stand beside projections, modules or parameters of the base that
            were trained too, training mode, a rank above that of a projection, or no batch. The model is unchanged.
    """
    config, adapted = state_of(model).config, projections(model)
    slices = {(name, part): adapter for name, p in adapted.items() for part, adapter in p.adapters.items()}
    if not slices or config.modules_to_save:
        raise LodaError(
            f"adapter={config.adapter.name} is not one that stands beside projections alone, so no LoRA can take its "
            "place; use the model as it is"
        )
    if model.training:
        raise LodaError("the model is in training mode; call model.eval() before loda.linearize(model, ...)")
    largest = min(min(adapted[name].d_in, adapted[name].slices[part].width) for name, part in slices)
    if not 1 <= rank <= largest:
        raise LodaError(f"rank={rank} must be from 1 to {largest}, the smallest side of an adapted slice")
    seen = {key: _Seen(adapted[key[0]], key[1]) for key in slices}
    with ExitStack() as hooks:
        for (name, _), one in seen.items():
            hooks.callback(adapted[name].register_forward_pre_hook(one).remove)
        for ids in batches:
            getattr(model, "base_model", model)(input_ids=ids)  # without the vocabulary's head
    idle = [name for (name, _), one in seen.items() if not one.tokens]
    if idle:
        raise LodaError(f"no token of the batches reached {idle[0]} ({len(idle)} in all); give more batches")
    fits, factors = [], {}
    for (name, part), one in seen.items():
        factors[name, part], error, nonlinearity = one.fit(rank, damping)
        fits.append(LinearFit(name, part, error, nonlinearity))
    approximation = state_dict({name: projection.base for name, projection in adapted.items()})
    lora = replace(config, adapter=LoRA(r=rank, alpha=rank, dropout=0.0))
    inject(unload(model), lora, approximation)
    for (name, part), (down, up) in factors.items():
        bottleneck = cast(Bottleneck, projections(model)[name].adapters[part])
        bottleneck.A.copy_(down)
        bottleneck.B.copy_(up)
    return fits


class _Seen:
    """A forward pre-hook that adds up x^T x, x^T f(x) and ||f(x)||^2 for the adapter of one slice."""

    def __init__(self, projection: AdaptedProjection, part: str) -> None:
        self.adapter = projection.adapters[part]
        self.inputs = torch.zeros(projection.d_in, projection.d_in, dtype=torch.float64)
        self.both = torch.zeros(projection.d_in, projection.slices[part].width, dtype=torch.float64)
        self.outputs = torch.zeros((), dtype=torch.float64)
        self.tokens = 0

    def __call__(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0].detach().flatten(0, -2)
        x = x.to(next(self.adapter.parameters()).dtype)
        y = self.adapter(x).float()
        x = x.float()
        self.inputs += (x.T @ x).cpu().double()
        self.both += (x.T @ y).cpu().double()
        self.outputs += y.square().sum().cpu().double()
        self.tokens += len(x)

    def fit(self, rank: int, damping: float) -> tuple[tuple[Tensor, Tensor], float, float]:
        """The factors (d_in, k) and (k, d_out) of D, and its relative error, bounded by k and not."""
        root = moments.root(self.inputs / self.tokens, damping)
        target = torch.linalg.solve_triangular(root, self.both / self.tokens, upper=False)
        u, s, v = torch.linalg.svd(target, full_matrices=False)
        down = torch.linalg.solve_triangular(root.T, u * s.sqrt(), upper=True)
        up = s.sqrt()[:, None] * v
        bounded = down[:, :rank], up[:rank]
        return bounded, self._error(bounded[0] @ bounded[1]), self._error(down @ up)

    def _error(self, linear: Tensor) -> float:
        """||f(x) - x D||^2 / ||f(x)||^2; 0 for f = 0."""
        lost = self.outputs - 2 * (linear * self.both).sum() + (linear * (self.inputs @ linear)).sum()
        return float((lost / self.outputs).clamp(min=0)) if self.outputs else 0.0
