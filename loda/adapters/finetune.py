"""FT and FT^Top2: fine-tuning of every parameter of the base, or of its last two transformer blocks.

The trained parameters are copies (see `loda.inject`), which costs the memory of another model, and `unload` puts the
base's own back, bit for bit. Weight decay pulls towards zero, as usual in fine-tuning, not towards the pre-trained
weights. An approximation (R-, S-) stays frozen, as under every adapter, and everything else is trained.
"""

from typing import ClassVar

from torch import nn

from loda.approx.dense import DenseLinear
from loda.architectures import find_blocks
from loda.errors import LodaError
from loda.projection import projections
from loda.settings import settings

TOP = 2


@settings
class FineTuneConfig:
    """FT: train every parameter. There are no settings, and `slices` has no effect.

    The tied embedding of GPT-2 is one parameter, so GPT2-medium has 354,823,168.
    """

    name: ClassVar[str] = "finetune"

    def check(self, model: nn.Module) -> None:
        """Raise LodaError for a quantised base."""
        _check_trainable(model)

    def attach(self, model: nn.Module) -> None:
        """Unfreeze the model."""
        _unfreeze(model)


@settings
class FineTuneTop2Config:
    """FT^Top2: train the last two blocks. There are no settings, and `slices` has no effect.

    A block of GPT2-medium has 12d^2 + 13d parameters, two have 25,192,448. The paper prints 25.19M. The final LayerNorm
    would add 2,048 and stays frozen here.
    """

    name: ClassVar[str] = "finetune_top2"

    def check(self, model: nn.Module) -> None:
        """Raise LodaError if the blocks are unknown or quantised."""
        for block in find_blocks(model)[-TOP:]:
            _check_trainable(block.module)

    def attach(self, model: nn.Module) -> None:
        """Unfreeze the last two blocks; a model of one block has only that one."""
        for block in find_blocks(model)[-TOP:]:
            _unfreeze(block.module)


def _check_trainable(module: nn.Module) -> None:
    integers = [name for name, parameter in module.named_parameters() if not parameter.is_floating_point()]
    if integers:
        raise LodaError(f"{integers[0]} is quantised and cannot be trained; use an adapter such as loda_plus")


def _unfreeze(module: nn.Module) -> None:
    """Train every parameter of `module`, except those of an approximation."""
    module.requires_grad_(True)
    for projection in projections(module).values():
        if not isinstance(projection.base, DenseLinear):
            projection.base.requires_grad_(False)
