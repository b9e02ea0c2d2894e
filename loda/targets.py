"""Where the query, key and value projections and the blocks of a model are, and how its weights are laid out.

The rest of the library sees a weight as (d_in, d_out) and a slice as a range of its columns. To support another
architecture, add a row to `ARCHITECTURES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loda.errors import LodaError


@dataclass(frozen=True)
class Fused:
    """One module computes several projections side by side, as W_proj = [W_q, W_k, W_v] does in GPT-2.

    Attributes:
        suffix: name of that module within a block.
        outputs: names within a block of the modules whose output the residual stream receives, in order.
        parts: the projections, in order.
    """

    suffix: str
    outputs: tuple[str, ...]
    parts: tuple[str, ...] = ("q", "k", "v")

    def slices(self, d_out: int) -> dict[str, tuple[int, int]]:
        """The columns of each part."""
        width = d_out // len(self.parts)
        return {part: (i * width, (i + 1) * width) for i, part in enumerate(self.parts)}


ARCHITECTURES: Mapping[str, Fused] = {"gpt2": Fused("attn.c_attn", outputs=("attn.c_proj", "mlp.c_proj"))}


@dataclass(frozen=True)
class Target:
    """One projection of a model: its name, its module and its slices."""

    name: str
    module: Conv1D
    slices: dict[str, tuple[int, int]]

    @property
    def weight(self) -> Tensor:
        """(d_in, d_out)."""
        return self.module.weight

    @property
    def bias(self) -> Tensor | None:
        """(d_out,) or None."""
        return self.module.bias


@dataclass(frozen=True)
class Block:
    """One transformer block: its module, and the modules that write to the residual stream, attention's first."""

    module: nn.Module
    outputs: tuple[nn.Module, ...]
    width: int


def architecture(model: nn.Module) -> Fused:
    """Where things are in `model`.

    Raises:
        LodaError: an unknown architecture.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ARCHITECTURES:
        raise LodaError(
            f"the architecture {kind!r} is not supported; known are {', '.join(ARCHITECTURES)}. "
            "Add a row to ARCHITECTURES in loda/targets.py"
        )
    return ARCHITECTURES[kind]


def find_blocks(model: nn.Module) -> list[Block]:
    """The transformer blocks of `model`, in order, whether its projections are adapted or not.

    Raises:
        LodaError: an unknown architecture.
    """
    layout = architecture(model)
    ending = f".{layout.suffix}"
    names = [name.removesuffix(ending) for name, _ in model.named_modules() if name.endswith(ending)]
    blocks = []
    for name in names:
        block = model.get_submodule(name)
        outputs = tuple(block.get_submodule(output) for output in layout.outputs)
        blocks.append(Block(block, outputs, cast(Conv1D, outputs[0]).nf))
    return blocks


def find_targets(model: nn.Module) -> list[Target]:
    """The attention projections of `model`, in order.

    Raises:
        LodaError: an unknown architecture, or a model in which no projection was found.
    """
    layout = architecture(model)
    targets = []
    for name, module in model.named_modules():
        if name.endswith(layout.suffix) and isinstance(module, Conv1D):
            targets.append(Target(name, module, layout.slices(module.weight.shape[1])))
    if not targets:
        raise LodaError(
            f"no module named *.{layout.suffix} was found in this model; it may already hold adapters (unload it first)"
        )
    return targets


def plain_projection(weight: Tensor, bias: Tensor | None) -> Conv1D:
    """An ordinary projection module that holds `weight` (d_in, d_out) and `bias` themselves, not copies."""
    d_in, d_out = weight.shape
    module: Any = Conv1D(d_out, 0)  # built empty: its constructor would draw random numbers for a full weight
    module.nx = d_in
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None
    return cast(Conv1D, module)
