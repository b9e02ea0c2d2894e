"""Where the query, key and value projections and the blocks of a model are, and how its weights are laid out.

The rest of the library sees a weight as (d_in, d_out) and a slice as columns of it. To support another architecture,
add a row to `ARCHITECTURES`, here or from outside.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loda.called import check_called
from loda.errors import LodaError
from loda.projection import FusedSlice

QKV = ("q", "k", "v")
ALL = "all"
"""The slice of a module outside attention: all its columns."""


@dataclass(frozen=True)
class AttentionLayout:
    """The names of modules within a transformer block.

    Attributes:
        projections: one module that computes q, k and v side by side (W_proj = [W_q, W_k, W_v]), or three modules, in
            this order.
        outputs: the modules whose output the residual stream receives, attention's first. Only `houlsby` needs them.
        by_head: whether a fused module is ordered head by head, [q_1, k_1, v_1, q_2, ...], or group by group with
            grouped queries.

    Raises:
        LodaError: neither one projection nor three.
    """

    projections: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    by_head: bool = False

    def __post_init__(self) -> None:
        if len(self.projections) not in (1, len(QKV)):
            raise LodaError(
                f"projections={self.projections} must name one module that computes q, k and v, or three, in this order"
            )

    def slices(self, d_out: int, heads: int, head_width: int) -> dict[str, FusedSlice]:
        """Return the slices of a fused projection of `d_out` columns; keys and values share the rest equally."""
        shared = (d_out - heads * head_width) // (2 * head_width)
        if shared < 1 or heads % shared or d_out != (heads + 2 * shared) * head_width:
            raise LodaError(
                f"{self.projections[0]} computes {d_out} columns, which are not {heads} heads of queries of width "
                f"{head_width} with heads of keys and values; its row in ARCHITECTURES does not fit it"
            )
        runs = shared if self.by_head else 1
        ends = [n * head_width // runs for n in (heads, heads + shared, heads + 2 * shared)]
        return {
            name: FusedSlice(start, stop, runs) for name, start, stop in zip(QKV, [0, *ends[:2]], ends, strict=True)
        }


_SPLIT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = AttentionLayout(_SPLIT, outputs=("self_attn.o_proj", "mlp.down_proj"))
ARCHITECTURES: dict[str, AttentionLayout] = {
    "gpt2": AttentionLayout(("attn.c_attn",), outputs=("attn.c_proj", "mlp.c_proj")),
    "gpt_neo": AttentionLayout(
        ("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        outputs=("attn.attention.out_proj", "mlp.c_proj"),
    ),
    "gptj": AttentionLayout(("attn.q_proj", "attn.k_proj", "attn.v_proj"), outputs=("attn.out_proj", "mlp.fc_out")),
    "gpt_neox": AttentionLayout(
        ("attention.query_key_value",), outputs=("attention.dense", "mlp.dense_4h_to_h"), by_head=True
    ),
    "opt": AttentionLayout(_SPLIT, outputs=("self_attn.out_proj", "fc2")),
    "bloom": AttentionLayout(
        ("self_attention.query_key_value",), outputs=("self_attention.dense", "mlp.dense_4h_to_h"), by_head=True
    ),
    "phi3": AttentionLayout(("self_attn.qkv_proj",), outputs=("self_attn.o_proj", "mlp.down_proj")),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
}
"""The layouts by `model_type` of the model's configuration."""


@dataclass(frozen=True)
class TargetModule:
    """A linear module to adapt or approximate.

    Attributes:
        name: the name of the module in the model.
        module: a `Conv1D` or an `nn.Linear`.
        slices: its slices by name, q, k and v, or `ALL`.
        block: the name of the block whose attention it belongs to; None for other modules.
    """

    name: str
    module: nn.Module
    slices: dict[str, FusedSlice]
    block: str | None

    @property
    def is_plain(self) -> bool:
        """Whether the module holds W itself, as a parameter, and computes x W + b; quantised ones do not."""
        weight = dict(self.module.named_parameters(recurse=False)).get("weight")
        return type(self.module).forward in (Conv1D.forward, nn.Linear.forward) and type(weight) is nn.Parameter

    @property
    def is_transposed(self) -> bool:
        """Whether the module is plain and holds W as (d_out, d_in), like `nn.Linear`."""
        return self.is_plain and not isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Tensor:
        """The weight (d_in, d_out) of a plain module."""
        return oriented(self.module, cast(Tensor, self.module.weight))

    @property
    def bias(self) -> Tensor | None:
        """The bias (d_out,) or None."""
        return cast(Tensor | None, self.module.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_out)."""
        return shape_of(self.module)

    def is_bare(self, slices: Sequence[str]) -> bool:
        """Whether no slice of this module is in `slices`. A module outside attention is adapted in any case."""
        return not {*slices, ALL} & set(self.slices)


@dataclass(frozen=True)
class Block:
    """A transformer block, its modules that write to the residual stream (attention's first), and its width d."""

    module: nn.Module
    outputs: tuple[nn.Module, ...]
    width: int


def is_linear(module: nn.Module) -> bool:
    """Whether a module can be adapted."""
    return isinstance(module, (Conv1D, nn.Linear))


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Return (d_in, d_out) of a linear module; the weight of a quantised one has another shape."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    linear = cast(nn.Linear, module)
    return linear.in_features, linear.out_features


def oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """Turn the weight of `module` into a view (d_in, d_out), or a (d_in, d_out) weight into the layout of `module`."""
    return weight if isinstance(module, Conv1D) else weight.T


def architecture(model: nn.Module) -> AttentionLayout:
    """Return the layout of `model`; LodaError for an unknown architecture, with how to add it."""
    kind = kind_of(model)
    if kind not in ARCHITECTURES:
        raise LodaError(_how_to_add(kind, _linear_names(model)))
    return ARCHITECTURES[kind]


def find_blocks(model: nn.Module) -> list[Block]:
    """Return the transformer blocks of `model` in order, with or without adapters in them."""
    layout = architecture(model)
    first = layout.projections[0]
    blocks = []
    for name, _ in model.named_modules():
        if _ends_with(name, first):
            block = model.get_submodule(_block_of(name, first))
            outputs = tuple(block.get_submodule(output) for output in layout.outputs)
            blocks.append(Block(block, outputs, cast(Any, model).config.hidden_size))
    return blocks


def find_targets(model: nn.Module, names: Sequence[str] = ()) -> list[TargetModule]:
    """Return the attention projections of `model`, in order, or the linear modules whose names end with `names`.

    Raises:
        LodaError: an unknown architecture and no names, a name without a module, or a module at two places.
    """
    wanted = names or architecture(model).projections
    targets = [
        target_of(model, name, module)
        for name, module in model.named_modules()
        if is_linear(module) and any(_ends_with(name, ending) for ending in wanted)
    ]
    for ending in wanted:
        if not any(_ends_with(target.name, ending) for target in targets):
            raise LodaError(
                f"no linear module named *.{ending} was found in this model; "
                f"its linear modules are {', '.join(_linear_names(model)) or 'none'}"
            )
    check_places(model, targets)
    return targets


def target_of(model: nn.Module, name: str, module: nn.Module) -> TargetModule:
    """Return the linear `module` called `name` in `model`, with its slices."""
    layout = ARCHITECTURES.get(kind_of(model))
    _, d_out = shape_of(module)
    for index, ending in enumerate(layout.projections if layout else ()):
        if layout and _ends_with(name, ending):
            split = len(layout.projections) == len(QKV)
            slices = {QKV[index]: FusedSlice(0, d_out)} if split else layout.slices(d_out, *_heads(model))
            return TargetModule(name, module, slices, _block_of(name, ending))
    return TargetModule(name, module, {ALL: FusedSlice(0, d_out)}, None)


def check_places(model: nn.Module, targets: Sequence[TargetModule]) -> None:
    """Raise LodaError for a target that the model holds at two places, because only one would be replaced, or that it
    does not call.
    """
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for target in targets:
        if len(names[id(target.module)]) > 1:
            raise LodaError(
                f"{' and '.join(names[id(target.module)])} are one module, so it cannot be adapted; copy it"
            )
    check_called(model, [target.name for target in targets])


def check_slices(model: nn.Module, targets: Sequence[TargetModule], slices: Sequence[str], approximated: bool) -> None:
    """Check that every module of `targets`, which the user named, has a slice in `slices`.

    Raises:
        LodaError: slices of attention in an unknown architecture, or a target without any of the slices. The latter is
            allowed beside other targets if it is `approximated` with them.
    """
    kind = kind_of(model)
    if kind not in ARCHITECTURES and ALL not in slices:
        raise LodaError(f"slices={tuple(slices)} of {targets[0].name}: {_how_to_add(kind, _linear_names(model))}")
    bare = [target for target in targets if target.is_bare(slices)]
    if bare and not (approximated and len(bare) < len(targets)):
        raise LodaError(
            f"targets name {bare[0].name}, which is {', '.join(bare[0].slices)}; slices={tuple(slices)} would leave it "
            "without an adapter: add to the slices, or leave it out of the targets"
        )


def kind_of(model: nn.Module) -> str:
    """Return the key of `model` in `ARCHITECTURES`: the `model_type` of its configuration."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def _ends_with(name: str, ending: str) -> bool:
    """Whether the last components of a module's name are `ending`."""
    return f".{name}".endswith(f".{ending}")


def _block_of(name: str, ending: str) -> str:
    return name.removesuffix(ending).removesuffix(".")


def _heads(model: nn.Module) -> tuple[int, int]:
    """Return the number of query heads and the width of one."""
    config: Any = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        raise LodaError(
            f"{type(model).__name__} has no config that tells the number of attention heads; adapt the model inside it "
            "that has one"
        )
    return heads, getattr(config, "head_dim", None) or config.hidden_size // heads


def _linear_names(model: nn.Module) -> list[str]:
    """Return the distinct names of the linear modules, with * for numbers."""
    linear = (name for name, module in model.named_modules() if is_linear(module))
    return list(dict.fromkeys(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for name in linear if name))


def _how_to_add(kind: str, names: Iterable[str]) -> str:
    within = [name.rpartition("*.")[2] for name in names if "*." in name]
    attention = [name for name in within if re.search(r"(?i)(^|[._])([qkv]|query|key|value|\w*qkv|\w*attn)(_|$)", name)]
    found = ", ".join(names) or "none"
    return (
        f"the architecture {kind!r} is not supported; known are {', '.join(ARCHITECTURES)}. "
        f"Its linear modules are {found}. Name those to adapt (targets, in PEFT target_modules), as a whole "
        "with slices=('all',), or add the architecture, with the order of columns that the model's code has:\n"
        "    from loda.architectures import ARCHITECTURES, AttentionLayout\n"
        f"    qkv = {tuple(attention or within)}  # within a block: one module [q, k, v], or q, k and v\n"
        f"    ARCHITECTURES[{kind!r}] = AttentionLayout(qkv, by_head=False)  # True: [q_1, k_1, v_1, q_2, ...]"
    )
