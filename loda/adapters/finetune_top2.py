"""FT^Top2: fine-tuning of the last two transformer blocks, everything else frozen.

Each block of GPT2-medium has 12d^2 + 13d parameters, two of them 25,192,448 (the paper prints 25.19M; the final
LayerNorm, which stays frozen here, would add 2,048). Copies are trained, as in `loda.adapters.finetune`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from loda.adapters.finetune import check_trainable, train_base
from loda.architectures import find_blocks
from loda.projection import AdaptedProjection

TOP = 2


@dataclass(frozen=True)
class Config:
    """No settings; `slices` has no meaning for it."""

    def check(self, model: nn.Module) -> None:
        """Raise LodaError where the blocks are not known, or quantised."""
        for block in find_blocks(model)[-TOP:]:
            check_trainable(block.module)

    def attach(self, model: nn.Module, projections: Mapping[str, AdaptedProjection], slices: Sequence[str]) -> None:
        """Train the last two blocks (a model of one block has only that)."""
        for block in find_blocks(model)[-TOP:]:
            train_base(block.module)
