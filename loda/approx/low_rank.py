"""R-: the truncated singular value decomposition of the whole W_proj (section 2.2, Figure 1d).

    W ~ W_A W_B,   W_A = U_R S_R^(1/2) (d, R),   W_B = S_R^(1/2) V_R^T (R, 3d)

This is the best rank-R approximation in the Frobenius norm (Eckart-Young). Forward computes (x W_A) W_B and never the
product W_A W_B: 4Rd multiply-accumulates instead of 3d^2, which is less if R < 3d/4 (section 3.2).

Beyond the paper: with `calibration` the error of the outputs on the task is smallest, not that of the weights. With the
second moment M of the inputs (`loda.calibration`), damped and factored as M + damping mean(diag M) I = L L^T,

    mean ||x (W - W~)||^2 = ||L^T (W - W~)||_F^2,   so W~ = L^-T [L^T W]_R,

where [.]_R is the truncated decomposition (whitening, as in SVD-LLM, Wang et al. 2025).
"""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from loda.approx import moment as moments
from loda.approx.dense import DenseConfig, affine, frozen, kept_energy
from loda.errors import LodaError
from loda.settings import UNLESS_DEFAULT, settings

Ranks = Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(strict=False)]
LEAST = 0.05
"""The smallest share of the multiply-accumulates of a weight that a plan leaves."""
PLAN_VERSION = 2
"""Raised when `loda.plan` finds other ranks for the same settings, so that no stored plan passes for a new one."""
TINY = 1e-150
"""Replaces a singular value of zero as the divisor; its row of S V^T is zero anyway."""


@settings
class LowRankConfig:
    """`rank` = R, the number of singular values kept (paper: 300 of 1024 on E2E; 500, 400, 300 on DART).

    Attributes:
        rank: the same for every weight, or None for a `budget`.
        budget: what is left of the multiply-accumulates of every weight, by which its rank follows from its shape.
            With another `measure` or `allocation`, of all weights together, and `loda.plan` finds the ranks.
        measure: what `budget` counts: multiply-accumulates; kept energy, the mean over the weights; or the loss, by how
            many nats per token it may rise.
        allocation: whether every weight has the same share of the budget, or probes of the loss say which have more.
        rank_pattern: the rank of single modules by name, as `loda.plan` finds them; 0 leaves a module dense.
        calibration: how many training examples give the second moment of the inputs; 0 is the paper's plain SVD.
        damping: what is added to the diagonal of the moment, as a fraction of the diagonal's mean.

    Raises:
        LodaError: a value out of its range, settings that have no effect together, or in `check` a rank above
            min(d_in, d_out).
    """

    name: ClassVar[str] = "low_rank"
    rank: int | None = Field(default=300, ge=1, description="the paper uses 300, 400 and 500")
    budget: float | None = dataclasses.field(default=None, metadata=UNLESS_DEFAULT)
    measure: Literal["macs", "energy", "loss"] = dataclasses.field(default="macs", metadata=UNLESS_DEFAULT)
    allocation: Literal["uniform", "probed"] = dataclasses.field(default="uniform", metadata=UNLESS_DEFAULT)
    rank_pattern: Ranks = dataclasses.field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)
    calibration: int = dataclasses.field(default=0, metadata=UNLESS_DEFAULT)
    damping: float = dataclasses.field(default=moments.DAMPING, metadata=UNLESS_DEFAULT)

    @property
    def is_projection(self) -> bool:
        """Whether W~ is an orthogonal projection of W."""
        return not self.calibration

    @property
    def is_planned(self) -> bool:
        """Whether the ranks are known: `loda.plan` has found them, or nothing asks for it."""
        return bool(self.rank_pattern) or (self.measure == "macs" and self.allocation == "uniform")

    def __post_init__(self) -> None:
        if self.calibration < 0 or not self.damping > 0:
            raise LodaError(
                f"calibration={self.calibration} must be 0 or more examples, damping={self.damping} more than 0"
            )
        if self.damping != moments.DAMPING and not self.calibration:
            raise LodaError(
                f"damping={self.damping} has no effect without calibration; set calibration, or leave it out"
            )
        if (self.rank is None) == (self.budget is None):
            raise LodaError(
                f"rank={self.rank} and budget={self.budget}: give one of the two, and None (null) for the other"
            )
        if self.budget is not None and not 0 < self.budget <= (1 if self.measure != "loss" else float("inf")):
            raise LodaError(f"budget={self.budget} of {self.measure} must be above 0 and, of a share, at most 1")
        if self.allocation == "probed" and self.measure == "macs" and self.budget is not None and self.budget < LEAST:
            raise LodaError(f"budget={self.budget} is less than {LEAST}, which a plan leaves to every weight; raise it")
        if (self.measure, self.allocation) == ("energy", "probed"):
            raise LodaError("allocation=probed keeps multiply-accumulates, not energy; set allocation=uniform")
        if self.budget is None and (self.measure, self.allocation) != ("macs", "uniform"):
            raise LodaError(
                f"measure={self.measure} and allocation={self.allocation} are ways to spend a budget; set it"
            )
        if not self.is_planned and not self.calibration:
            raise LodaError("a plan probes the loss on training examples; set calibration to their number")

    def rank_of(self, d_in: int, d_out: int) -> int:
        """The rank of a (d_in, d_out) weight that `rank_pattern` does not name; unplanned, at most its full rank."""
        if self.rank is not None:
            return self.rank
        if self.measure != "macs" or self.budget is None:
            return min(d_in, d_out)
        return rank_at(self.budget, d_in, d_out)

    def of(self, names: Sequence[str]) -> "LowRankConfig | DenseConfig":
        """The settings for the modules `names`, which are approximated together.

        Raises:
            LodaError: `rank_pattern` gives them different ranks.
        """
        ranks = {self.rank_pattern.get(name) for name in names}
        if len(ranks) > 1:
            raise LodaError(
                f"rank_pattern has different ranks for {' and '.join(names)}, which share one; make them equal"
            )
        (rank,) = ranks
        if rank is None:
            return self if not self.rank_pattern else dataclasses.replace(self, rank_pattern={})
        if rank == 0:
            return DenseConfig()
        return LowRankConfig(rank=rank, calibration=self.calibration, damping=self.damping)

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if a (d_in, d_out) weight has fewer singular values than `rank`."""
        if self.rank is not None and self.rank > min(d_in, d_out):
            raise LodaError(
                f"rank={self.rank} exceeds min(d, 3d) = {min(d_in, d_out)} of the {d_in} x {d_out} projection; "
                f"choose a rank from 1 to {min(d_in, d_out)}"
            )

    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> "LowRankLinear":
        """Return the rank-R approximation of `weight` (d_in, d_out), with `bias` (d_out,) as it is.

        Raises:
            LodaError: a rank that does not fit, or no `moment` (d_in, d_in) although `calibration` asks for it.
        """
        self.check(*weight.shape)
        rank = self.rank_of(*weight.shape)
        if not self.calibration or weight.is_meta:
            return LowRankLinear.from_weight(weight, bias, rank)
        if not self.is_planned:
            raise LodaError(f"{self} needs a plan: use the configuration that loda.plan returns, which has the ranks")
        found = moments.given(moment, self.calibration, weight)
        return LowRankLinear.from_weight(weight, bias, rank, moments.root(found, self.damping))


def rank_at(share: float, d_in: int, d_out: int) -> int:
    """The rank of a (d_in, d_out) weight at which `share` of its multiply-accumulates are left; at least 1."""
    return min(d_in, d_out, max(1, int(share * d_in * d_out / (d_in + d_out))))


class LowRankLinear(nn.Module):
    """h = (x W_A) W_B + b: (*, d_in) -> (*, d_out).

    Args:
        W_A: (d_in, R).
        W_B: (R, d_out).
        bias: (d_out,) or None.
        energy: the kept fraction, a number: without calibration the sum of the R largest squared singular values over
            the sum of all (Figure 2a).
        product: x W_A, shared with the other parts of a joint approximation.
        leads: whether W_A counts here, and not for another part.
    """

    def __init__(
        self,
        W_A: Tensor,  # noqa: N803
        W_B: Tensor,  # noqa: N803
        bias: Tensor | None,
        energy: Tensor,
        product: "SharedProduct | None" = None,
        leads: bool = True,
    ) -> None:
        super().__init__()
        self.W_A = frozen(W_A)
        self.W_B = frozen(W_B)
        self.bias = None if bias is None else frozen(bias)
        self.energy = nn.Buffer(energy)
        self.product = product
        self.leads = leads

    @classmethod
    @torch.no_grad()
    def from_weight(cls, weight: Tensor, bias: Tensor | None, rank: int, root: Tensor | None = None) -> "LowRankLinear":
        """Decompose `weight` (d_in, d_out), or L^T `weight` if `root` = L is given, in float64.

        The factors have the dtype of `weight`.

        U holds the eigenvectors of W W^T, which take a fifth of the time of an SVD. The eigenvalues have lost half of
        the digits of small singular values, so S comes from the row lengths of U^T W = S V^T. The sign of a singular
        vector is arbitrary: here the largest entry of each column of U is positive.
        """
        exact = weight.double()
        whitened = exact if root is None else root.T @ exact
        u = torch.linalg.eigh(whitened @ whitened.T).eigenvectors[:, -rank:].flip(1)
        u *= torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
        scaled = u.T @ whitened
        s = scaled.norm(dim=1)
        down, up = u * s.sqrt(), scaled / s.sqrt().clamp(min=TINY)[:, None]
        if root is None:
            energy = s.square().sum() / exact.square().sum()
        else:
            down = torch.linalg.solve_triangular(root.T, down, upper=True)
            energy = kept_energy(exact, down @ up)
        # Contiguous, as the factors are once stored and read back: the order in memory decides how products round.
        return cls(
            down.to(weight.dtype).contiguous(),
            up.to(weight.dtype).contiguous(),
            bias,
            # Not float64: MPS does not have it, and a model with one such number could not be moved there.
            energy.to(torch.promote_types(weight.dtype, torch.float32)),
        )

    @property
    def weight(self) -> Tensor:
        """W_A W_B (d_in, d_out), multiplied each time that it is asked for."""
        return self.W_A @ self.W_B

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        z = self._first(x) if self.product is None else self.product(x, self._first, self.leads)
        return affine(z, self.W_B, self.bias)

    def _first(self, x: Tensor) -> Tensor:
        return x @ self.W_A

    def macs(self) -> int:
        """Multiply-accumulates per token: R (d_in + d_out), which is 4Rd for a d x 3d projection."""
        return self.leads * self.W_A.numel() + self.W_B.numel()

    def split(self, widths: Sequence[int], biases: Sequence[Tensor | None]) -> Sequence[nn.Module]:
        """Cut the projection into neighbours of `widths` columns: the same W_A and x W_A, and columns of W_B."""
        parts, product = zip(self.W_B.split(list(widths), dim=1), biases, strict=True), SharedProduct(len(widths))
        return [
            LowRankLinear(self.W_A, part.contiguous(), bias, self.energy, product, leads=i == 0)
            for i, (part, bias) in enumerate(parts)
        ]

    def extra_repr(self) -> str:
        """Shape and rank."""
        return f"{self.W_A.shape[0]} x {self.W_B.shape[1]}, rank={self.W_A.shape[1]}"


class SharedProduct:
    """A product with x for several projections that a model calls one after the other.

    The first of them computes it each time, and the others take it if x is the same object, unchanged, in the same mode
    of autograd and autocast. It is forgotten with x, or when the last of them has it.
    """

    def __init__(self, readers: int) -> None:
        self.readers = readers
        self._kept: tuple[weakref.ref[Tensor], object, Tensor, int] | None = None

    def __call__(self, x: Tensor, multiply: Callable[[Tensor], Tensor], leads: bool) -> Tensor:
        """Return `multiply(x)`; or what it returned for the same x, except to the one that `leads`."""
        if torch.compiler.is_compiling():  # the compiler finds equal products itself
            return multiply(x)
        autocast = not x.is_meta and torch.is_autocast_enabled(x.device.type)
        state = (torch.is_grad_enabled(), autocast, None if x.is_inference() else x._version)
        kept = self._kept  # read once: other threads may replace it
        if kept is not None and not leads and kept[0]() is x and kept[1] == state:
            left = kept[3] - 1
            self._kept = (*kept[:3], left) if left else None
            return kept[2]
        z = multiply(x)
        self._kept = (weakref.ref(x, self._forget), state, z, self.readers - 1)
        return z

    def _forget(self, gone: "weakref.ref[Tensor]") -> None:
        if self._kept is not None and self._kept[0] is gone:
            self._kept = None

    def __reduce__(self) -> tuple[type["SharedProduct"], tuple[int]]:
        """Copy and pickle without the product."""
        return SharedProduct, (self.readers,)
