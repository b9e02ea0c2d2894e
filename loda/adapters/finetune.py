"""Full fine-tuning (FT): every parameter of the base is trained.

The tied embedding of GPT-2 is one parameter, so GPT2-medium has 354,823,168. The trained parameters are copies
(`loda.inject`), which costs the memory of one more model; the base's own come back with `unload`, bit for bit. Weight
decay therefore pulls towards zero, as fine-tuning usually does, and not towards the pre-trained weights. What
is saved is the whole model.

Over an approximation (R-, S-) the approximated projections stay frozen, as everywhere, and all the rest is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from loda.approx.dense import Frozen as DenseFrozen
from loda.errors import LodaError
from loda.projection import AdaptedProjection


@dataclass(frozen=True)
class Config:
    """No settings; `slices` has no meaning for it."""

    def check(self, model: nn.Module) -> None:
        """Raise LodaError for a quantised base."""
        check_trainable(model)

    def attach(self, model: nn.Module, projections: Mapping[str, AdaptedProjection], slices: Sequence[str]) -> None:
        """Train all that is there."""
        train_base(model)


def check_trainable(module: nn.Module) -> None:
    """Raise LodaError for parameters that cannot be trained."""
    integers = [name for name, parameter in module.named_parameters() if not parameter.is_floating_point()]
    if integers:
        raise LodaError(f"{integers[0]} is quantised and cannot be trained; use an adapter such as loda_plus")


def train_base(module: nn.Module) -> None:
    """Let every parameter of `module` be trained, except those of an approximation."""
    module.requires_grad_(True)
    for part in module.modules():
        if isinstance(part, AdaptedProjection) and not isinstance(part.frozen, DenseFrozen):
            part.frozen.requires_grad_(False)
