"""FT and FT^Top2: fine-tuning of every parameter of the base, or of its last two transformer blocks.

The trained parameters are copies (see `loda.inject`), which costs the memory of another model, and `unload` restores
the base, bit for bit. Weight decay pulls towards zero, as usual in fine-tuning, not towards the pre-trained weights. An
approximation (R-, S-) stays frozen, as under every adapter.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from loda.approx.dense import DenseLinear
from loda.attention import find_blocks
from loda.errors import LodaError
from loda.projection import projections
from loda.settings import settings


@settings
class FineTuneConfig:
    """FT: train every parameter. There are no settings, and `slices` has no effect.

    The tied embedding of GPT-2 is one parameter, so GPT2-medium has 354,823,168.

    Raises:
        LodaError: in `check`, a quantised base.
    """

    name: ClassVar[str] = "finetune"

    def trained(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return the modules whose parameters are trained."""
        return [model]

    def check(self, model: nn.Module, adapted: Sequence[str]) -> None:
        """Raise LodaError if a parameter to train is quantised."""
        for module in self.trained(model):
            for name, parameter in module.named_parameters():
                if not parameter.is_floating_point():
                    raise LodaError(f"{name} is quantised and cannot be trained; use an adapter such as loda_plus")

    def attach(self, model: nn.Module) -> None:
        """Train every parameter of the trained modules, except those of an approximation."""
        for module in self.trained(model):
            module.requires_grad_(True)
            for projection in projections(module).values():
                if not isinstance(projection.base, DenseLinear):
                    projection.base.requires_grad_(False)


@settings
class FineTuneTop2Config(FineTuneConfig):
    """FT^Top2: train the last two blocks. There are no settings, and `slices` has no effect.

    A block of GPT2-medium has 12d^2 + 13d parameters, two have 25,192,448. The paper prints 25.19M. The final LayerNorm
    would add 2,048 and stays frozen here.

    Raises:
        LodaError: in `check`, an architecture whose blocks are unknown, or a quantised block.
    """

    name: ClassVar[str] = "finetune_top2"

    def trained(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return the last two blocks; a model of one block has only that one."""
        return [block.module for block in find_blocks(model)[-2:]]
