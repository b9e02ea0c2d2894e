"""What LoRA, LoDA and LoDA+ have in common: the settings of a bottleneck and the start values of A and B.

A (d_in, r) starts uniform in +-1/sqrt(d_in), which is LoRA's kaiming_uniform(a = sqrt(5)); B (r, d_out) starts at
zero. So every adapter is the zero map at the start, and the first step changes B alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loda.adapters.nonlinear import Stack
from loda.errors import LodaError
from loda.linear import placement
from loda.projection import AdaptedProjection

INITS = ("independent", "reference")


@dataclass(frozen=True)
class ProjectionAdapterConfig:
    """Settings of an adapter that stands beside slices of the attention projections.

    Raises:
        LodaError: a dropout outside [0, 1).
    """

    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise LodaError(f"dropout={self.dropout} must lie in [0, 1); the paper uses 0.1 for E2E")

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """The adapter of a (d_in, d_out) projection."""
        raise NotImplementedError

    def check(self, model: nn.Module) -> None:
        """Every model with projections fits."""

    def attach(self, model: nn.Module, projections: Mapping[str, AdaptedProjection], slices: Sequence[str]) -> None:
        """Put one adapter beside each named slice of each projection that has it."""
        for projection in projections.values():
            device, dtype = placement(projection.frozen, model)
            for name in slices:
                if name in projection.slices:
                    adapter = self.build(projection.d_in, projection.width(name))
                    projection.adapt(name, adapter.to(device, dtype), self.dropout)


@dataclass(frozen=True)
class BottleneckConfig(ProjectionAdapterConfig):
    """Settings of A (d, r) and B (r, d).

    Attributes:
        r: width of the bottleneck.
        alpha: the update is scaled by alpha / r. The paper uses LoRA's 32 for r = 4; whether it grows with r in
            Table 3 is not stated, here it stays 32 for every r unless set.
        dropout: on the input of A; one mask for all slices of a projection.
        init: "independent" draws every adapter anew; "reference" starts every layer from the same values, as
            LoRA's code does (it builds one block and copies it).

    Raises:
        LodaError: r < 1, alpha <= 0, a dropout outside [0, 1) or an unknown init.
    """

    r: int = 4
    alpha: float = 32.0
    init: str = "independent"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r < 1:
            raise LodaError(f"r={self.r} must be at least 1; the paper uses r=4")
        if not 0 < self.alpha < float("inf"):
            raise LodaError(f"alpha={self.alpha} must be positive; the paper uses alpha=32")
        if self.init not in INITS:
            raise LodaError(f"init={self.init!r} is not one of {', '.join(INITS)}")

    @property
    def scale(self) -> float:
        """s = alpha / r."""
        return self.alpha / self.r

    def attach(self, model: nn.Module, projections: Mapping[str, AdaptedProjection], slices: Sequence[str]) -> None:
        """Put one adapter beside each named slice of each projection."""
        super().attach(model, projections, slices)
        if self.init == "reference":
            first: dict[tuple[str, str], nn.Module] = {}
            for name, projection in projections.items():
                for part, adapter in projection.adapters.items():
                    # Alike are the modules of one name, in different blocks.
                    like = first.setdefault((name.rpartition(".")[2], part), adapter)
                    adapter.load_state_dict(like.state_dict())


@dataclass(frozen=True)
class Form:
    """An adapter as Eq. 2 has it: Delta h = s (x A B + f2(f1(x A) B)).

    LoRA is the case without f1, LoDA the one without f2 (the identity).
    """

    A: Tensor
    B: Tensor
    scale: float
    f1: Stack | None = None
    f2: Stack | None = None


def new_down(d_in: int, r: int) -> nn.Parameter:
    """A (d_in, r), uniform in +-1/sqrt(d_in)."""
    bound = d_in**-0.5
    return nn.Parameter(torch.empty(d_in, r).uniform_(-bound, bound))


def new_up(r: int, d_out: int) -> nn.Parameter:
    """B (r, d_out), zero."""
    return nn.Parameter(torch.zeros(r, d_out))
