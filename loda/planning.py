"""A plan: which rank every projection gets, so that a budget is spent where the loss needs it.

The obvious rules, more rank where less energy is kept or where gradients are larger, do worse than the same share for
all (docs/results.md), because what the projections lose does not add up. So a plan starts from the same share for all
and follows the slope of the loss there, or at one half where less is left:

    W_p(b)                                   the product of rank b d_in d_out / (d_in + d_out) of projection p
    g_p = <dL/dW_p, W_p(b + h) - W_p(b - h)> / (2 h m_p)     m_p: its part of all multiply-accumulates
    b_p = b - t g_p / rms(g) + c             c: all cost b; t from a line search on other examples, or 0 if no t
                                             lowers the loss

A share of 1 is a dense projection. For MACs this takes one backward pass over the examples of `losses` and 7
evaluations.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from loda.approx import moment as moments_of
from loda.approx.dense import kept_energy
from loda.approx.group import groups_of, state_dict
from loda.approx.low_rank import LEAST, LowRankConfig, LowRankLinear, rank_at
from loda.architectures import block_of, oriented
from loda.config import LodaConfig
from loda.errors import LodaError
from loda.model import Model, check_holds_no_adapters, check_moments, targets_of
from loda.targets import TargetModule
from loda.wrappers import on_inner_model

PROBE = 0.05
"""h above."""
HEALTHY = 0.5
"""Slopes are taken at this share where the budget is smaller. There the loss is so curved that its own slope says
little: on SmolLM2-135M at 0.35 no step along it is better than none, along that of 0.5 one is by 0.3 nats."""
STEPS = (0.05, 0.1, 0.15, 0.2, 0.25)
"""The t that the line search tries."""
PRECISION = 0.01
"""Of a share that keeps within a budget of energy or loss."""

Shares = list[float]
"""What is left of the multiply-accumulates of every unit, 1 for dense."""


@dataclass(frozen=True)
class Unit:
    """What is approximated as one matrix: one projection, or several that read the same input.

    Attributes:
        targets: the projections.
        factors: the decomposition of full rank, of which a smaller rank takes the first columns and rows.
        weight: the matrix (d_in, d_out).
        kind: the name of the first module within its block.
    """

    targets: Sequence[TargetModule]
    factors: LowRankLinear
    weight: Tensor
    kind: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense matrix."""
        return self.weight.numel()

    def rank(self, share: float) -> int:
        """The rank that takes `share` of the multiply-accumulates; 0 for dense."""
        return 0 if share >= 1 else rank_at(share, *self.weight.shape)

    def cost(self, rank: int) -> int:
        """Multiply-accumulates at `rank`."""
        return rank * sum(self.weight.shape) if rank else self.macs

    def parts(self, rank: int) -> Iterator[tuple[str, nn.Module]]:
        """The projections of `rank` by name; none for dense."""
        if not rank:
            return
        factors, names = self.factors, [target.name for target in self.targets]
        energy = kept_energy(self.weight, self.product(rank))
        cut = LowRankLinear(factors.W_A[:, :rank].contiguous(), factors.W_B[:rank].contiguous(), None, energy)
        widths, biases = [target.shape[1] for target in self.targets], [target.bias for target in self.targets]
        yield from zip(names, cut.split(widths, biases), strict=True)

    def product(self, rank: int) -> Tensor:
        """W~ (d_in, d_out) of `rank`."""
        return self.factors.W_A[:, :rank] @ self.factors.W_B[:rank] if rank else self.weight


@dataclass(frozen=True)
class PlannedModule:
    """One line of a plan: modules that are approximated together.

    Attributes:
        modules: their names.
        kind: the name of the first within its block.
        rank: 0 for dense.
        dense_macs: multiply-accumulates per token before, and `macs` after.
        energy: kept fraction of the squared norm of the weight.
        output_energy: kept fraction of the squared norm of the outputs, over the calibration.
    """

    modules: tuple[str, ...]
    kind: str
    rank: int
    dense_macs: int
    macs: int
    energy: float
    output_energy: float


@dataclass(frozen=True)
class Plan:
    """What `loda.plan` found.

    Attributes:
        config: the settings with the ranks, to be used from now on.
        modules: what every module got, in the order of the model.
        losses: of the dense model, of the uniform plan of the same cost, and of this plan, on the examples of
            `evaluate`. The step was chosen by them, so that of the plan is a little too low.
        approximation: the state dict of the approximated projections, for `loda.inject`.
    """

    config: LodaConfig
    modules: list[PlannedModule]
    losses: dict[str, float]
    approximation: dict[str, Tensor]

    @property
    def share(self) -> float:
        """What is left of the multiply-accumulates of these modules."""
        return sum(module.macs for module in self.modules) / sum(module.dense_macs for module in self.modules)


@on_inner_model
@torch.no_grad()
def plan(
    model: Model,
    config: LodaConfig,
    moments: Mapping[str, Tensor],
    losses: Callable[[Model], Iterable[Tensor]],
    evaluate: Callable[[Model], float],
    progress: Callable[[], None] = lambda: None,
) -> Plan:
    """Find the ranks that spend the budget of `config.approx`, a `LowRank` with `budget`.

    Args:
        model: the base, without adapters, in evaluation mode. Its weights are replaced during the probes and put back.
        config: the settings, whose approximation has a budget.
        moments: what `loda.second_moments` returned.
        losses: gives scalars whose sum is the loss of the model that it is called with, each with a graph for its
            gradient; may be on the examples of the moments.
        evaluate: gives the loss on other examples.
        progress: called before every evaluation.

    Raises:
        LodaError: settings without a budget, moments of other modules, or a loss that is not finite.
    """
    check_holds_no_adapters(model)
    approx = config.approx
    if not isinstance(approx, LowRankConfig) or approx.budget is None:
        raise LodaError(f"{approx} has no budget to plan; give LowRank(rank=None, budget=0.7, calibration=256)")
    targets = targets_of(model, config)
    check_moments(moments, targets)
    units = _units(groups_of(targets, config.joint), moments, approx.damping)
    probe = _Probe(model, units, cast(Callable[[nn.Module], float], evaluate), progress)
    try:
        dense = probe.loss([1.0] * len(units))
        share = _uniform(probe, approx, dense)
        uniform = probe.loss([share] * len(units))
        shares, loss = [share] * len(units), uniform
        if approx.allocation == "probed":
            shares, loss = _improve(probe, share, uniform, cast(Callable[[nn.Module], Iterable[Tensor]], losses))
    finally:
        probe.restore()
    modules = [_planned(unit, unit.rank(share)) for unit, share in zip(units, shares, strict=True)]
    pattern = {name: module.rank for module in modules for name in module.modules}
    planned = replace(config, approx=replace(approx, rank_pattern=pattern))
    parts = {name: part for unit, module in zip(units, modules, strict=True) for name, part in unit.parts(module.rank)}
    return Plan(planned, modules, {"dense": dense, "uniform": uniform, "planned": loss}, state_dict(parts))


def _planned(unit: Unit, rank: int) -> PlannedModule:
    names = tuple(target.name for target in unit.targets)
    # The length of a row of W_B is the root of its singular value.
    squares = unit.factors.W_B.double().norm(dim=1).pow(4)
    output_energy = float(squares[:rank].sum() / squares.sum()) if rank else 1.0
    return PlannedModule(names, unit.kind, rank, unit.macs, unit.cost(rank), _energy(unit, rank), output_energy)


def _units(groups: Sequence[Sequence[TargetModule]], moments: Mapping[str, Tensor], damping: float) -> list[Unit]:
    units = []
    for group in groups:
        weight = torch.cat([target.weight.detach() for target in group], dim=1)
        moment = moments[group[0].name].to(weight.device, torch.float64)
        factors = LowRankLinear.from_weight(weight, None, min(weight.shape), moments_of.root(moment, damping))
        kind = group[0].name.removeprefix(f"{block_of(group[0].name)}.")
        units.append(Unit(group, factors, weight, kind))
    return units


class _Probe:
    """The model, with whatever shares its loss is asked for."""

    def __init__(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        evaluate: Callable[[nn.Module], float],
        progress: Callable[[], None],
    ) -> None:
        self.model, self.units, self.evaluate, self.progress = model, units, evaluate, progress
        self.ranks = [0] * len(units)

    def put(self, shares: Shares) -> None:
        """Give the model `shares` of every unit."""
        for i, unit in enumerate(self.units):
            rank = unit.rank(shares[i])
            if rank != self.ranks[i]:
                self._put(unit, unit.product(rank))
                self.ranks[i] = rank

    def loss(self, shares: Shares) -> float:
        """The loss of the model with `shares` of every unit."""
        self.put(shares)
        self.progress()
        found = self.evaluate(self.model)
        if not math.isfinite(found):
            raise LodaError(f"the loss of a probe is {found}; give other examples, or a larger budget")
        return found

    def restore(self) -> None:
        """Put the dense weights back."""
        for unit in self.units:
            self._put(unit, unit.weight)

    def _put(self, unit: Unit, weight: Tensor) -> None:
        widths = [target.shape[1] for target in unit.targets]
        for target, part in zip(unit.targets, weight.split(widths, dim=1), strict=True):
            target.weight.copy_(part)


def _uniform(probe: _Probe, approx: LowRankConfig, dense: float) -> float:
    """The share for all units that spends the budget; of energy and of loss the smallest that keeps within."""
    budget = cast(float, approx.budget)
    if approx.measure == "macs":
        return budget
    low, high = LEAST, 1.0
    while high - low > PRECISION:
        share = (low + high) / 2
        ranks = [unit.rank(share) for unit in probe.units]
        if approx.measure == "energy":
            energies = [_energy(unit, rank) for unit, rank in zip(probe.units, ranks, strict=True)]
            within = sum(energies) / len(energies) >= budget
        else:
            within = probe.loss([share] * len(ranks)) - dense <= budget
        low, high = (low, share) if within else (share, high)
    return high


def _improve(
    probe: _Probe, share: float, uniform: float, losses: Callable[[nn.Module], Iterable[Tensor]]
) -> tuple[Shares, float]:
    """The best shares along the slope of the loss at the uniform plan, whose loss is `uniform`, and their loss."""
    units = probe.units
    slopes = _slopes(probe, max(share, HEALTHY), losses)
    typical = math.sqrt(sum(slope**2 for slope in slopes) / len(slopes)) or 1.0
    best = [share] * len(units), uniform
    for step in STEPS:
        shares = _paid(units, share, [-step * slope / typical for slope in slopes])
        found = probe.loss(shares)
        best = min(best, (shares, found), key=lambda plan: plan[1])
    return best


def _slopes(probe: _Probe, share: float, losses: Callable[[nn.Module], Iterable[Tensor]]) -> list[float]:
    """How the loss changes with the multiply-accumulates of each unit, where all have `share` of theirs."""
    probe.put([share] * len(probe.units))
    gradients = _gradients(probe.model, [target.module for unit in probe.units for target in unit.targets], losses)
    slopes = []
    for unit in probe.units:
        gradient = torch.cat([oriented(target.module, gradients[target.module]) for target in unit.targets], dim=1)
        more, less = (unit.product(unit.rank(min(max(share + h, LEAST), 1.0))) for h in (PROBE, -PROBE))
        slopes.append(float((gradient * (more - less)).sum()) / (2 * PROBE * unit.macs))
    return slopes


def _gradients(
    model: nn.Module, modules: Sequence[nn.Module], losses: Callable[[nn.Module], Iterable[Tensor]]
) -> dict[nn.Module, Tensor]:
    """The gradient of the loss with respect to the weight of each module; `requires_grad` is put back."""
    weights = [cast(Tensor, module.weight) for module in modules]
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    totals = [torch.zeros_like(weight) for weight in weights]
    try:
        model.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            for loss in losses(model):
                for total, gradient in zip(
                    totals, torch.autograd.grad(loss, weights, materialize_grads=True), strict=True
                ):
                    total += gradient
    finally:
        for parameter, was in required.items():
            parameter.requires_grad_(was)
    return dict(zip(modules, totals, strict=True))


def _paid(units: Sequence[Unit], share: float, changes: Sequence[float]) -> Shares:
    """`share` + `changes` + c within [LEAST, 1], where c is such that all cost what `share` of everything costs."""
    total, low, high = sum(unit.macs for unit in units), -1.0, 1.0
    while high - low > 1e-9:
        shift = (low + high) / 2
        shares = [min(max(share + change + shift, LEAST), 1.0) for change in changes]
        costs = sum(unit.macs * s for unit, s in zip(units, shares, strict=True)) / total
        low, high = (low, shift) if costs > share else (shift, high)
    return [min(max(share + change + low, LEAST), 1.0) for change in changes]


def _energy(unit: Unit, rank: int) -> float:
    return float(kept_energy(unit.weight, unit.product(rank)))
