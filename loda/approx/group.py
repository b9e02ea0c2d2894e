"""The base projections of a model: which weights are approximated together, and loading them from a state dict."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from loda.approx.dense import DenseConfig, DenseLinear
from loda.approx.quantized import QuantizedLinear
from loda.errors import LodaError
from loda.identity import fingerprint_of
from loda.interfaces import ApproxConfig, ApproxLinear, BaseProjection
from loda.targets import TargetModule

ROUNDING = 1e-2
"""Relative tolerance of squared norms; bfloat16 factors need it."""


def check_approximation(targets: Sequence[TargetModule], approx: ApproxConfig, joint: bool) -> None:
    """Raise LodaError if `approx` does not fit the weights of `targets`."""
    for target in targets:
        if not target.is_plain and approx.name != "dense":
            raise LodaError(
                f"{target.name} is a {type(target.module).__name__}, whose weight is quantised already: "
                f"approx={approx.name} of rounded numbers would keep their errors, and storing it would "
                "undo the saving; load the base unquantised, or leave approx out"
            )
    unknown = set(getattr(approx, "rank_pattern", ())) - {target.name for target in targets}
    if unknown:
        raise LodaError(
            f"rank_pattern names {min(unknown)}, which is not approximated; leave it out, or add to targets"
        )
    for group in groups_of(targets, joint):
        d_in, d_out = group[0].shape[0], sum(target.shape[1] for target in group)
        own = _settings_of(approx, group)
        own.check(d_in, d_out)
        made = own.approximate(torch.empty(d_in, d_out, device="meta"), None)
        if len(group) > 1 and own.name != "dense" and not hasattr(made, "split"):
            raise LodaError(
                f"approx={approx.name} of {' and '.join(target.name for target in group)} together cannot be cut into "
                "its parts; leave joint out"
            )


def base_projections(
    targets: Sequence[TargetModule],
    approx: ApproxConfig,
    joint: bool,
    given: Mapping[str, Tensor] | None = None,
    moments: Mapping[str, Tensor] | None = None,
) -> dict[str, nn.Module]:
    """Return a `BaseProjection` for each of `targets`, by name, computed or loaded from the state dict `given`.

    `moments` are those of the inputs of the targets, by name, for settings that ask for them.

    Raises:
        LodaError: names, shapes, dtypes or settings of `given` differ from those of this approximation of `targets`.
    """
    if given is None or (approx.name == "dense" and not given):
        return _compute(targets, approx, joint, moments)
    bases = _compute(targets, approx, joint, meta=True)
    stored = [target for target in targets if not isinstance(bases[target.name], DenseLinear)]
    dense = _compute([target for target in targets if target not in stored], DenseConfig(), joint=False)
    shared = _shared(bases)
    expected = state_dict(bases)
    remedy = "leave `approximation` out to compute it"
    check_state(given, expected, "the given approximation", remedy)
    for name, tensor in expected.items():
        # On the meta device, values that follow from the settings are known, such as the number of kept entries. The
        # settings do not say how many of them each module of a joint approximation has.
        if not joint and not tensor.is_meta and not torch.equal(tensor, given[name].cpu()):
            raise LodaError(
                f"the given approximation has {name}={given[name].tolist()}, but {approx} gives {tensor.tolist()}; "
                f"{remedy}"
            )
    for target in stored:
        prefix = f"{target.name}."
        state = {key.removeprefix(prefix): tensor for key, tensor in given.items() if key.startswith(prefix)}
        bases[target.name].load_state_dict(state, strict=True, assign=True)
        bases[target.name].to(target.weight.device)
    for (first, own), *others in shared:
        for name, _ in others:
            one, other = f"{first}.{own}", f"{name}.{own}"
            if not torch.equal(given[one], given[other]):
                raise LodaError(f"the given approximation has different {one} and {other}, which are one; {remedy}")
            within, _, last = own.rpartition(".")
            setattr(bases[name].get_submodule(within), last, bases[first].get_parameter(own))
    return bases | dense


def _shared(bases: Mapping[str, nn.Module]) -> list[list[tuple[str, str]]]:
    """Return the parameters that several of `bases` share, each as all its pairs of base and name within it."""
    names: dict[int, list[tuple[str, str]]] = {}
    for name, base in bases.items():
        for own, parameter in base.named_parameters():
            names.setdefault(id(parameter), []).append((name, own))
    return [found for found in names.values() if len(found) > 1]


@torch.no_grad()
def check_belongs(
    targets: Sequence[TargetModule], bases: Mapping[str, nn.Module], approx: ApproxConfig, joint: bool, what: str
) -> None:
    """Raise LodaError, about `what`, unless the `bases` approximate the weights of `targets`.

    Each stores its energy: ||W - W~||^2 = (1 - energy) ||W||^2, and of a projection ||W~||^2 = energy ||W||^2.
    """
    is_projection = getattr(approx, "is_projection", False)
    for group in groups_of(targets, joint):
        total = kept = lost = 0.0
        for target in group:
            module, weight = bases[target.name], target.weight.detach()
            bias = cast(Tensor | None, module.bias)
            if bias is not None and not torch.equal(bias, cast(Tensor, target.bias)):
                raise LodaError(f"{what}: the bias of {target.name} is not the base's; restore it from a copy")
            found = cast(Tensor, module.weight).double()
            total += float(weight.double().square().sum())
            kept += float(found.square().sum())
            lost += float((weight.double() - found).square().sum())
        energy = float(cast(BaseProjection, bases[group[0].name]).energy)
        wrong = abs(lost - (1 - energy) * total) + is_projection * abs(kept - energy * total)
        if not wrong <= ROUNDING * total:
            raise LodaError(f"{what} does not approximate {group[0].name} of this base; restore it from a copy")


def fingerprint_of_targets(targets: Sequence[TargetModule]) -> str:
    """Return what identifies the base of an approximation: the sha256 of the weights of `targets`."""
    return fingerprint_of({target.name: target.weight for target in targets})


def state_dict(bases: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return one flat state dict of several modules: `{"<name>.<key>": tensor}`; dense ones are the base's own."""
    approximated = {name: base for name, base in bases.items() if not isinstance(base, DenseLinear)}
    return {f"{name}.{key}": tensor for name, base in approximated.items() for key, tensor in base.state_dict().items()}


def check_state(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Raise LodaError, about `what`, unless `given` has exactly the names, shapes and dtypes of `expected`."""
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing:
        raise LodaError(f"{what} lacks the tensor {missing[0]} ({len(missing)} missing); {remedy}")
    if unknown:
        raise LodaError(f"{what} holds an unknown tensor {unknown[0]} ({len(unknown)} unknown); {remedy}")
    for name, tensor in expected.items():
        found, wanted = ((tuple(t.shape), t.dtype) for t in (given[name], tensor))
        if found != wanted:
            raise LodaError(f"{what}: {name} has shape and dtype {found}, expected {wanted}; {remedy}")


def groups_of(targets: Sequence[TargetModule], joint: bool) -> list[list[TargetModule]]:
    """Group the plain targets that are approximated together: those that read the same input if `joint`, or each."""
    groups: dict[str, list[TargetModule]] = {}
    for target in targets:
        if target.is_plain:
            groups.setdefault(target.group if joint else target.name, []).append(target)
    return [sorted(group, key=lambda target: "qkv".find(next(iter(target.slices)))) for group in groups.values()]


def _compute(
    targets: Sequence[TargetModule],
    approx: ApproxConfig,
    joint: bool,
    moments: Mapping[str, Tensor] | None = None,
    meta: bool = False,
) -> dict[str, nn.Module]:
    """Approximate `targets`. On the meta device this costs nothing and gives names, shapes and counts."""
    bases: dict[str, nn.Module] = {t.name: QuantizedLinear(t.module, *t.shape) for t in targets if not t.is_plain}
    for group in groups_of(targets, joint):
        weights = [target.weight.to("meta") if meta else target.weight for target in group]
        biases = [target.bias.to("meta") if meta and target.bias is not None else target.bias for target in group]
        own, moment = _settings_of(approx, group), None if moments is None else moments[group[0].name]
        if len(group) == 1 or own.name == "dense":
            parts: Sequence[nn.Module] = [
                own.approximate(*given, moment) for given in zip(weights, biases, strict=True)
            ]
            for part, target in zip(parts, group, strict=True):
                if isinstance(part, DenseLinear):
                    part.transposed = target.is_transposed
        else:
            together = torch.cat([weight.detach() for weight in weights], dim=1)
            whole = cast(ApproxLinear, own.approximate(together, None, moment))
            parts = whole.split([weight.shape[1] for weight in weights], biases)
        bases |= zip((target.name for target in group), parts, strict=True)
    return bases


def _settings_of(approx: ApproxConfig, group: Sequence[TargetModule]) -> ApproxConfig:
    """Return the settings for the targets of `group`, which differ only where the approximation has a plan."""
    of = getattr(approx, "of", None)
    return approx if of is None else cast(ApproxConfig, of([target.name for target in group]))
