"""Fewer and larger products for an adapted model: the same outputs, to rounding, in less time.

The linear term of Eq. 2 goes into the weight of the base projection, and A becomes further columns of that weight:
    dense, sparse   [h, u] = x [W + s A B, A] + b                      one product instead of one for each adapter
    low-rank        [z, u] = x [W_A, A],   h = [z, u] [W_B; s B] + b   the linear term is r more ranks
    then            h[slice] += s f2(f1(u) B)                          for every slice with an f1
Projections that share x W_A (`joint`) share [z, u] with the columns of all their adapters.

With `int8` the large products multiply whole numbers, and x A stays as it is:
    x W ~ p_t s_j (q_t . c_j),   p_t = max |x_t| / 127,  q_t = round(x_t / p_t),  s, c of W as in approx=quantized
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loda.adapters.bottleneck import Bottleneck
from loda.adapters.nonlinear import apply_stack
from loda.approx.dense import DenseLinear, affine
from loda.approx.low_rank import LowRankLinear, SharedProduct
from loda.approx.quantized import RoundedLinear, round_int8
from loda.approx.sparse import SparseLinear
from loda.architectures import is_linear
from loda.errors import LodaError
from loda.interfaces import LinearAdapter, is_linear_adapter
from loda.model import Model, fold, mark_optimized, state_of
from loda.precision import narrow
from loda.projection import AdaptedProjection, projections
from loda.targets import target_of
from loda.wrappers import on_inner_model


@on_inner_model
@torch.no_grad()
def optimize_for_inference(model: Model, *, int8: bool = False) -> Model:
    """Replace the adapted projections of `model` by faster ones that compute the same to rounding, in place.

    Afterwards the model runs only in evaluation mode, nothing in it requires gradients, and it can be neither saved,
    merged nor unloaded: keep the saved adapter. A projection stays as it is if its base is neither dense, sparse nor
    low-rank (with `int8`, rounded weights are replaced too), if an adapter is neither a `Bottleneck` nor linear, or if
    a full Delta W stands over a low-rank weight.

    Args:
        model: the adapted model, in evaluation mode.
        int8: whether inputs and weights are rounded to 8 bits for the products of these projections and of every other
            linear module, the vocabulary's head too. Outputs of a projection change by about 1 %; on CPUs with 8-bit
            instructions they take a fraction of the time.

    Raises:
        LodaError: no adapters, optimised already, or the model is in training mode. The model is unchanged.
    """
    state_of(model)
    if model.training:
        raise LodaError("the model is in training mode; call model.eval() before loda.optimize_for_inference(model)")
    if int8 and any(parameter.device.type != "cpu" for parameter in model.parameters()):
        raise LodaError(
            "int8=True multiplies on the CPU alone; move the model there with model.cpu(), or leave int8 out"
        )
    narrow(model)
    fast = {name: p for name, p in projections(model).items() if _has_fast_form(p, int8)}
    for together in _sharing(fast):
        for name, module in zip(together, _fast_forms([fast[name] for name in together], int8), strict=True):
            model.set_submodule(name, module.eval())
    if int8:
        slow = tuple(f"{name}." for name in projections(model))
        for name, module in list(model.named_modules()):
            if is_linear(module) and not f"{name}.".startswith(slow):
                target = target_of(model, name, module)
                if target.is_plain:
                    model.set_submodule(name, Int8Product(target.weight, target.bias).eval())
    mark_optimized(fold(model).requires_grad_(False))
    return model


def _has_fast_form(projection: AdaptedProjection, int8: bool) -> bool:
    base, low_rank = projection.base, isinstance(projection.base, LowRankLinear)
    is_matrix = isinstance(base, (DenseLinear, SparseLinear)) or (int8 and isinstance(base, RoundedLinear))
    return (low_rank or is_matrix) and all(
        isinstance(a, Bottleneck) or (is_linear_adapter(a) and not low_rank) for a in projection.adapters.values()
    )


def _sharing(fast: Mapping[str, AdaptedProjection]) -> list[list[str]]:
    """Return the names of `fast`, together where their bases share x W_A."""
    groups: dict[object, list[str]] = {}
    for name, projection in fast.items():
        product = projection.base.product if isinstance(projection.base, LowRankLinear) else None
        groups.setdefault(name if product is None else id(product), []).append(name)
    return list(groups.values())


def _fast_forms(members: Sequence[AdaptedProjection], int8: bool) -> list["InferenceProjection"]:
    """Return the fast forms of one projection, or of several low-rank ones with the same W_A."""
    for member in members:
        member.adapters.to(next(member.base.parameters()).dtype)
    base = members[0].base
    bottlenecks = [[a for a in member.adapters.values() if isinstance(a, Bottleneck)] for member in members]
    if isinstance(base, LowRankLinear):
        weight, bias = base.W_A.detach(), None
    else:
        weight, bias = _with_linear_terms(members[0]), cast(Tensor | None, base.bias)
        bottlenecks = [[a for a in bottlenecks[0] if a.f1 is not None]]
    begins, end = [], weight.shape[1]
    for own in bottlenecks:
        begins.append(end)
        end += sum(a.A.shape[1] for a in own)
    first = FirstProduct(weight, [a.A.detach() for own in bottlenecks for a in own], bias, int8)
    shared = SharedProduct(len(members)) if len(members) > 1 else None
    forms = []
    for member, begin in zip(members, begins, strict=True):
        second = None
        if isinstance(member.base, LowRankLinear):
            second = SecondProduct(member.base.W_B.detach(), _ranks(member, begin, end), member.bias, int8)
        forms.append(InferenceProjection(member, first, second, begin, shared))
    return forms


class InferenceProjection(nn.Module):
    """What an `AdaptedProjection` computes, in evaluation mode and without gradients: (*, d_in) -> (*, d_out).

    The f1 of all slices run as one batch, because the number of such small operations decides the time. All bottlenecks
    of the projection must have the same settings, as `loda.inject` gives them.

    Args:
        projection: the adapted projection.
        first: the product with W or W_A, and beside it with the A of its bottlenecks, from column `begin` on.
        second: the product with W_B, for a low-rank base.
        begin: a column of the first product.
        shared: keeps the first product for the projections that share it.
    """

    def __init__(
        self,
        projection: AdaptedProjection,
        first: "FirstProduct",
        second: "SecondProduct | None",
        begin: int,
        shared: SharedProduct | None,
    ) -> None:
        super().__init__()
        self.slices, self.d_out = projection.slices, projection.d_out
        self.first, self.second, self.begin, self.shared = first, second, begin, shared
        self.leads = getattr(projection.base, "leads", True)
        bottlenecks = {name: a for name, a in projection.adapters.items() if isinstance(a, Bottleneck)}
        f1s = {name: a.f1 for name, a in bottlenecks.items() if a.f1 is not None}
        self.nonlinear = nn.ModuleDict({name: bottlenecks[name] for name in f1s})
        self.end = begin + sum(bottlenecks[name].A.shape[1] for name in f1s)
        self.f1 = next((f1.config for f1 in f1s.values()), None)
        stages = zip(*(f1.linears for f1 in f1s.values()), strict=True)
        matrices = [torch.stack([cast(nn.Linear, linear).weight.T for linear in stage]) for stage in stages]
        empty = next(projection.base.parameters()).new_empty(0)
        self.matrices = nn.Buffer(torch.stack(matrices) if matrices else empty)

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
        product: Tensor = self.first(x) if self.shared is None else self.shared(x, self.first, self.leads)
        h: Tensor = product[:, : self.d_out] if self.second is None else self.second(product)
        if self.f1 is not None:
            u = product[:, self.begin : self.end].unflatten(-1, (len(self.nonlinear), -1)).transpose(0, 1)
            v = apply_stack(self.f1, u, [partial(torch.bmm, mat2=matrix) for matrix in self.matrices])
            for part, (name, module) in zip(v, self.nonlinear.items(), strict=True):
                bottleneck = cast(Bottleneck, module)
                delta = part @ bottleneck.B
                self.slices[name].add_(h, delta if bottleneck.f2 is None else bottleneck.f2(delta), bottleneck.scale)
        return h.view(*x.shape[:-1], self.d_out)


class FirstProduct(nn.Module):
    """x [W, A, ...] + [b, 0, ...]: (*, d_in) -> (tokens, columns)."""

    def __init__(self, weight: Tensor, beside: Sequence[Tensor], bias: Tensor | None, int8: bool) -> None:
        super().__init__()
        self.rounded = Int8Product(weight, bias) if int8 else None
        self.weight = nn.Buffer(torch.cat([*([] if int8 else [weight]), *beside, weight[:, :0]], dim=1))
        padding = (0, self.weight.shape[1] - weight.shape[1])
        self.bias = None if bias is None or int8 else nn.Buffer(F.pad(bias.detach(), padding))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        rows = x.reshape(-1, x.shape[-1])
        if self.rounded is None:
            return affine(rows, self.weight, self.bias)
        product: Tensor = self.rounded(rows)
        return torch.cat([product, rows @ self.weight], dim=1) if self.weight.shape[1] else product


class SecondProduct(nn.Module):
    """z W_B + u s B + b for a product [z, u]: (tokens, columns) -> (tokens, d_out)."""

    def __init__(self, weight: Tensor, ranks: Tensor, bias: Tensor | None, int8: bool) -> None:
        super().__init__()
        self.rank = weight.shape[0]
        self.rounded = Int8Product(weight, bias) if int8 else None
        self.weight = nn.Buffer(ranks if int8 else torch.cat([weight, ranks]))
        self.bias = None if bias is None or int8 else nn.Buffer(bias.detach())

    def forward(self, product: Tensor) -> Tensor:
        """Multiply."""
        if self.rounded is None:
            return affine(product, self.weight, self.bias)
        h: Tensor = self.rounded(product[:, : self.rank])
        return h.addmm_(product[:, self.rank :], self.weight) if len(self.weight) else h


class Int8Product(nn.Module):
    """h = x W + b in whole numbers of 8 bits, scaled by token and by output: (*, d_in) -> (*, d_out)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        codes, scale = round_int8(weight.detach())
        self.codes = nn.Buffer(codes.T.contiguous())  # the layout that the kernel is fast for
        self.scale = nn.Buffer(scale.float())
        self.bias = None if bias is None else nn.Buffer(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        rows = x.reshape(-1, x.shape[-1]).float()
        step = rows.abs().amax(dim=1, keepdim=True).div_(127).clamp_(min=torch.finfo(torch.float32).tiny)
        whole = torch._int_mm((rows / step).round_().to(torch.int8), self.codes.T)
        h = whole.float().mul_(step).mul_(self.scale).to(x.dtype)
        return (h if self.bias is None else h.add_(self.bias)).view(*x.shape[:-1], len(self.scale))


def _with_linear_terms(projection: AdaptedProjection) -> Tensor:
    """Return W + s A B, or W + Delta W, on the columns of every adapter."""
    weight = cast(Tensor, projection.base.weight).detach().clone(memory_format=torch.contiguous_format)
    for name, adapter in projection.adapters.items():
        if isinstance(adapter, Bottleneck):
            projection.slices[name].add_(weight, adapter.A @ adapter.B, adapter.scale)
        else:
            projection.slices[name].add_(weight, cast(Tensor, cast(LinearAdapter, adapter).weight()))
    return weight


def _ranks(projection: AdaptedProjection, begin: int, end: int) -> Tensor:
    """Return s B of every bottleneck, in the columns of its slice, below W_B: for the columns of x A from R to `end`.

    Rows of other projections' bottlenecks, which share the first product, are zero.
    """
    base = cast(LowRankLinear, projection.base)
    ranks, row = base.W_B.new_zeros(end - base.W_A.shape[1], base.W_B.shape[1]), begin - base.W_A.shape[1]
    for name, adapter in projection.adapters.items():
        up = cast(Bottleneck, adapter).B
        projection.slices[name].add_(ranks[row : row + len(up)], up, cast(Bottleneck, adapter).scale)
        row += len(up)
    return ranks
