"""An adapted model made fast: fewer and larger products for the same outputs, to rounding.

Eq. 2 is the general form of LoRA, LoDA and LoDA+, Delta h = s (x A B + f2(f1(x A) B)). Its linear term is a weight and
goes into the frozen projection exactly; what remains is f2(f1(x A) B), whose A, with the first matrix F of f1, becomes
further columns of the frozen projection, for all slices at once:

    dense, sparse    [h, u] = x [W + s A B, A F] + b                     one product instead of one per adapter
    low-rank         [z, u] = x [W_A, A, A F],   h = z [W_B; s B] + b    the linear term is r more ranks
    then             h[slice] += s f2(f1'(u) B)                          all slices in one batched product

A sparse weight is multiplied as a dense one, and the linear term fills its zeros. With the paper's 40 to 60 % of the
entries kept, compressed rows were slower for a single token and for many, and faster only around ten tokens at a time
(docs/performance.md); which is right for a machine, `python -m benchmarks.inference` tells.
"""

from itertools import pairwise
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loda.adapters.bottleneck import Form
from loda.adapters.nonlinear import Stack, StackConfig
from loda.columns import Columns
from loda.errors import LodaError
from loda.interfaces import Bottleneck, Factored, LinearAdapter
from loda.model import attachment, mark_optimized, projections
from loda.projection import AdaptedProjection

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def optimize_for_inference(model: Model) -> Model:
    """Replace the adapted projections of `model` by faster ones that compute the same to rounding, in place.

    Afterwards the model runs in evaluation mode alone, nothing in it requires gradients, and it can be neither saved,
    merged nor unloaded: keep the saved adapter. A projection whose approximation has no `factors` or whose adapters
    have neither `form` nor `weight` (see `loda.interfaces`) stays as it is; the library's own all have, but for a full
    Delta W over a low-rank weight.

    Raises:
        LodaError: no adapters, optimised already, or the model is in training mode. The model is untouched then.
    """
    attachment(model)
    if model.training:
        raise LodaError("the model is in training mode; call model.eval() before loda.optimize_for_inference(model)")
    for name, projection in projections(model).items():
        fast = optimized(projection)
        if fast is not None:
            model.set_submodule(name, fast.eval())
    mark_optimized(model.requires_grad_(False))
    return model


class InferenceProjection(nn.Module):
    """What an `AdaptedProjection` computes, in evaluation mode and without gradients: (*, d_in) -> (*, d_out).

    Args:
        factors: the frozen weight with all linear terms, W or (W_A, W_B).
        bias: (d_out,) or None.
        remainders: what no weight equals.
    """

    bias: Tensor | None
    second: Tensor | None

    def __init__(self, factors: list[Tensor], bias: Tensor | None, remainders: list["Remainder"]) -> None:
        super().__init__()
        self.d_out = factors[-1].shape[1]
        self.width = factors[0].shape[1]
        self.first = nn.Buffer(torch.cat([factors[0], *(one.down for one in remainders)], dim=1))
        self.second = nn.Buffer(factors[1].contiguous()) if len(factors) > 1 else None
        padded = self.d_out if self.second is not None else self.first.shape[1]
        self.bias = None if bias is None else nn.Buffer(F.pad(bias.detach(), (0, padded - self.d_out)))
        self.remainders = nn.ModuleList(remainders)

    def forward(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out).

        Raises:
            LodaError: in training mode, or where gradients are to flow through it.
        """
        if self.training or (x.requires_grad and torch.is_grad_enabled()):
            raise LodaError(
                "this model was optimised for inference and cannot be trained; load the base and the adapter again, "
                "or call it in evaluation mode under torch.inference_mode()"
            )
        rows = x.reshape(-1, x.shape[-1])
        if self.second is None:
            product = _affine(rows, self.first, self.bias)
            h = product[:, : self.d_out]
        else:
            product = rows @ self.first
            h = _affine(product[:, : self.width], self.second, self.bias)
        begin = self.width
        for remainder in self.remainders:
            begin = cast(Remainder, remainder).add(product, begin, h)
        return h.view(*x.shape[:-1], self.d_out)

    def extra_repr(self) -> str:
        """Shapes of the products."""
        return " -> ".join(str(tuple(part.shape)) for part in (self.first, self.second) if part is not None)


class Remainder(nn.Module):
    """s f2(f1(x A) B) of S slices of one width, added to them in place.

    Args:
        forms: of each slice, with an f1; they differ in A, B and the matrices of f1 alone.
        columns: of each slice; of several, each one run, at equal distances.
    """

    def __init__(self, forms: list[Form], columns: list[Columns]) -> None:
        super().__init__()
        f1s, f2, scale = [cast(Stack, form.f1) for form in forms], forms[0].f2, forms[0].scale
        inner = list(f1s[0].config.operations) * len(f1s[0].linears)
        stages = zip(*(f1.linears for f1 in f1s), strict=True)
        matrices = [torch.stack([linear.weight.T for linear in stage]) for stage in stages]
        down, up = torch.stack([form.A for form in forms]), torch.stack([form.B for form in forms])
        # The matrices of f1 next to A and to B are multiplied with them once and for all.
        if inner[0] == "linear":
            inner, down = inner[1:], down @ matrices.pop(0)
        if inner and inner[-1] == "linear":
            inner, up = inner[:-1], matrices.pop() @ up
        self.inner, self.f1 = inner, f1s[0].config
        self.outer = [] if f2 is None else list(f2.config.operations) * f2.config.stages
        self.f2 = None if f2 is None else f2.config
        # LeakyReLU(s z) = s LeakyReLU(z), so s can go into B, but not through a norm.
        self.scale = scale if "norm" in self.outer else 1.0
        self.down = down.transpose(0, 1).flatten(1)
        self.up = nn.Buffer(up * (scale / self.scale))
        self.matrices = nn.Buffer(torch.stack(matrices) if matrices else up.new_empty(0))
        self.columns = columns
        self.distance = columns[1].start - columns[0].start if len(columns) > 1 else 0

    def add(self, product: Tensor, begin: int, h: Tensor) -> int:
        """Add to h (n, d_out) in place, given x A F, with F the first matrix of f1, in `product` from `begin` on.

        Returns where its columns in `product` end.
        """
        slices, r, width = self.up.shape
        rows, length = product.shape
        v = product.as_strided((slices, rows, r), (r, length, 1), begin)
        used = 0
        for operation in self.inner:
            if operation == "linear":
                v, used = torch.bmm(v, self.matrices[used]), used + 1
            else:
                v = _apply(operation, self.f1, v)
        first = self.columns[0]
        if first.runs > 1:
            first.add_(h, self.scale * self._outer(torch.bmm(v, self.up))[0])
            return begin + r
        target = h.as_strided((slices, rows, width), (self.distance, h.stride(0), 1), first.start)
        if self.f2 is None:
            target.baddbmm_(v, self.up)
        else:
            target.add_(self._outer(torch.bmm(v, self.up)), alpha=self.scale)
        return begin + slices * r

    def _outer(self, delta: Tensor) -> Tensor:
        for operation in self.outer:
            delta = _apply(operation, cast(StackConfig, self.f2), delta)
        return delta


def optimized(projection: AdaptedProjection) -> InferenceProjection | None:
    """The fast form of a projection, None where it has none."""
    frozen, adapters = projection.frozen, projection.adapters
    if not isinstance(frozen, Factored):
        return None
    factors = [factor.detach() for factor in frozen.factors()]
    forms = {name: adapter.form() for name, adapter in adapters.items() if isinstance(adapter, Bottleneck)}
    full = {name: adapter.weight() for name, adapter in adapters.items() if isinstance(adapter, LinearAdapter)}
    full = {name: weight for name, weight in full.items() if name not in forms}
    if len(forms) + len(full) < len(adapters) or (full and len(factors) > 1):
        return None
    for name, weight in full.items():
        factors[0] = _with_columns_added(factors[0], weight, projection.slices[name])
    for name, form in forms.items():
        factors = _with_linear_term(factors, form, projection.slices[name])
    bent = [(projection.slices[name], form) for name, form in forms.items() if form.f1 is not None]
    return InferenceProjection(factors, frozen.bias, _remainders(bent))


def _remainders(bent: list[tuple[Columns, Form]]) -> list[Remainder]:
    """One for all slices where they lie evenly, side by side; else one for each."""
    ordered = sorted(bent, key=lambda pair: pair[0].start)
    columns, forms = [pair[0] for pair in ordered], [pair[1] for pair in ordered]
    distances = {after.start - before.start for before, after in pairwise(columns)}
    shapes = {(one.runs, one.width) for one in columns}
    if len(shapes) == 1 and len(distances) <= 1 and columns[0].runs == 1:
        return [Remainder(forms, columns)]
    return [Remainder([form], [one]) for one, form in zip(columns, forms, strict=True)]


def _with_linear_term(factors: list[Tensor], form: Form, columns: Columns) -> list[Tensor]:
    """W + s A B on the given columns, as one factor or as r more ranks of two."""
    if len(factors) == 1:
        return [_with_columns_added(factors[0], form.scale * (form.A @ form.B), columns)]
    down, up = factors
    rows = _with_columns_added(up.new_zeros(form.B.shape[0], up.shape[1]), form.scale * form.B, columns)
    return [torch.cat([down, form.A], dim=1), torch.cat([up, rows])]


def _with_columns_added(weight: Tensor, addend: Tensor, columns: Columns) -> Tensor:
    changed = weight.clone(memory_format=torch.contiguous_format)
    columns.add_(changed, addend)
    return changed


def _apply(operation: str, config: StackConfig, u: Tensor) -> Tensor:
    """As `Stack` does, but the activation in place."""
    if operation == "norm":
        return F.layer_norm(u, u.shape[-1:], eps=config.eps)
    return F.leaky_relu_(u, config.negative_slope)


def _affine(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows @ weight if bias is None else torch.addmm(bias, rows, weight)
