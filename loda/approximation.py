"""The approximations of a model's projections: which weights go together, and whether given tensors are theirs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from loda.architectures import Target
from loda.config import part_name
from loda.errors import LodaError
from loda.interfaces import ApproxConfig

FrozenTensors = Mapping[str, Mapping[str, Tensor]]
"""The tensors of each projection's approximation, by the projection's name."""


def check_approximation(targets: Sequence[Target], approx: ApproxConfig, joint: bool) -> None:
    """Raise LodaError where the weights of `targets` cannot be approximated so."""
    for target in targets:
        if not target.is_plain and part_name(approx) != "dense":
            raise LodaError(
                f"{target.name} is a {type(target.module).__name__}, whose weight is quantised already: "
                f"approx={part_name(approx)} of rounded numbers would keep their errors, and storing it would "
                "undo the saving; load the base unquantised, or leave approx out"
            )
    for group in _groups(targets, joint):
        approx.check(group[0].shape[0], sum(target.shape[1] for target in group))


def approximate_targets(
    targets: Sequence[Target], approx: ApproxConfig, joint: bool, of: Callable[[Tensor], Tensor] = Tensor.detach
) -> FrozenTensors:
    """The tensors of the approximation of each of `targets`, by name.

    Args:
        targets: as `find_targets` returns them.
        approx: the approximation.
        joint: as in `LodaConfig`.
        of: makes what is approximated from a weight.
    """
    tensors: dict[str, Mapping[str, Tensor]] = {}
    for group in _groups(targets, joint):
        weights = [of(target.weight) for target in group]
        if len(group) == 1:
            parts = [approx.approximate(weights[0])]
        else:
            whole = approx.approximate(torch.cat(weights, dim=1))
            parts = approx.split(whole, [weight.shape[1] for weight in weights])
        tensors |= zip((target.name for target in group), parts, strict=True)
    return tensors


def _groups(targets: Sequence[Target], joint: bool) -> list[list[Target]]:
    """The plain targets that are approximated together: with `joint` q, k and v of a block, otherwise each alone."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        if target.is_plain:
            together = joint and target.block is not None
            groups.setdefault(f"block {target.block}" if together else target.name, []).append(target)
    return [sorted(group, key=lambda target: "qkv".find(next(iter(target.slices)))) for group in groups.values()]


def check_frozen(frozen: FrozenTensors, targets: Sequence[Target], approx: ApproxConfig, joint: bool) -> None:
    """Raise LodaError unless `frozen` has the names, shapes and settings of this approximation of `targets`."""
    # On the meta device the approximation costs nothing and tells the names and shapes of its tensors, and the
    # values of those that depend on the settings alone, such as the number of kept entries.
    empty = partial(torch.empty_like, device="meta")
    all_expected = approximate_targets(targets, approx, joint, empty)
    if set(frozen) != set(all_expected):
        raise LodaError(
            f"the given approximation is of the projections {sorted(frozen)}, not of this model's; "
            "leave `frozen` out to compute it"
        )
    for target_name, expected in all_expected.items():
        found = frozen[target_name]
        if _shapes(found) != _shapes(expected):
            raise LodaError(
                f"the given approximation of {target_name} has the tensors {_shapes(found)}, approx="
                f"{part_name(approx)} has {_shapes(expected)}; leave `frozen` out to compute it"
            )
        for name, tensor in expected.items():
            # Which part of a joint approximation keeps how many is not for the settings to say.
            if not joint and not tensor.is_meta and not torch.equal(tensor, found[name].cpu()):
                raise LodaError(
                    f"the given approximation of {target_name} has {name}={found[name].tolist()}, the settings "
                    f"{approx} ask for {tensor.tolist()}; leave `frozen` out to compute it"
                )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
