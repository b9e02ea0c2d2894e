"""Which modules of a model are its self-attention and its blocks, and what to do where they cannot be told."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from loda.architectures import (
    ARCHITECTURES,
    QKV,
    block_of,
    config_of,
    ends_with,
    heads_of,
    is_linear,
    kind_of,
    layout_of,
    module_of,
    place_of,
    shape_of,
    slices_of,
)
from loda.errors import LodaError

NAME_THEM = "name the modules to adapt with targets (in PEFT target_modules), whole with slices=('all',)"


@dataclass(frozen=True)
class Block:
    """A transformer block, its modules that write to the residual stream (attention's first), and its width d."""

    module: nn.Module
    outputs: tuple[nn.Module, ...]
    width: int


def find_attention(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return, by module name and in order, which of q, k and v each attention projection computes, adapted or not.

    Only the softmax self-attention of the language model counts, not cross-attention, linear attention or the vision
    tower of a multimodal model.

    Raises:
        LodaError: an unknown architecture, with how to add it, or an encoder-decoder.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise LodaError(
            f"{kind_of(model)} is an encoder-decoder, whose encoder, decoder and cross-attention each have q, k and v; "
            f"{NAME_THEM}"
        )
    kind = config.get_text_config(decoder=True).model_type if hasattr(config, "get_text_config") else None
    modules = {n: m for n, m in model.named_modules() if kind in (None, kind_of(model, n))}
    if not any(map(is_linear, modules.values())):  # the vision tower by itself
        modules = dict(model.named_modules())
    found: dict[str, tuple[str, ...]] = {}
    for name, module in modules.items():
        place = place_of(model, name)
        if not (place or ends_with(name, "q_proj")) or _is_other_attention(model, name):
            continue
        if place is None or (is_linear(module) and not slices_of(model, name, shape_of(module)[1])):
            raise LodaError(_does_not_fit(model, name, module))
        layout, ending = place
        found[name] = QKV if layout.is_fused else (QKV[layout.projections.index(ending)],)
    if not found:
        raise LodaError(_how_to_add(kind or kind_of(model), with_stars(n for n, m in modules.items() if is_linear(m))))
    return found


def find_blocks(model: nn.Module) -> list[Block]:
    """Return the transformer blocks of `model` in order, with or without adapters in them.

    Blocks beside those with attention count too, such as those of a hybrid model that hold linear attention.
    """
    attention = {block_of(name): name for name in find_attention(model)}
    blocks = []
    for name in dict.fromkeys(beside for block in attention for beside in _stack_of(model, block)):
        block, inside = model.get_submodule(name), attention.get(name)
        named = layout_of(model, inside).outputs if inside else ()
        outputs = tuple(block.get_submodule(output) for output in named) or _sublayers(block)
        blocks.append(Block(block, outputs, config_of(model, f"{name}.").hidden_size))
    return blocks


def _is_other_attention(model: nn.Module, name: str) -> bool:
    """Whether the module `name` belongs to cross-attention or linear attention, by the names of module and class."""
    attention = name.rpartition(".")[0]
    words = f"{attention.rpartition('.')[2]} {type(module_of(model, attention)).__name__}"
    return re.search(r"(?i)cross|encoder_attn|x_attn|linear|delta", words) is not None


def _stack_of(model: nn.Module, block: str) -> list[str]:
    """Return the names of the blocks among which `block` is."""
    stack, _, _ = block.rpartition(".")
    return [f"{stack}.{name}" for name, _ in model.get_submodule(stack).named_children()] if stack else [block]


def _sublayers(block: nn.Module) -> tuple[nn.Module, ...]:
    """Return the two children of `block` that hold matrices, attention and feed-forward network; () otherwise.

    OPT has no module for the feed-forward network: its linear modules, of which the last counts, are in the block.
    """
    first, *others = [c for c in block.children() if any(p.ndim > 1 for p in c.parameters())] or [block]
    return (first, others[-1]) if len(others) == 1 or (others and all(map(is_linear, others))) else ()


def with_stars(names: Iterable[str]) -> list[str]:
    """Return the distinct `names`, with * for numbers."""
    return list(dict.fromkeys(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for name in names if name))


def _does_not_fit(model: nn.Module, name: str, module: nn.Module) -> str:
    """Say why the columns of the module `name`, of attention, are not its q, k or v."""
    if not place_of(model, name):
        return f"{name} has no k_proj and v_proj of its own beside it, so its attention cannot be told; {NAME_THEM}"
    heads, width = heads_of(model, name)
    if not heads:
        return f"{type(model).__name__} has no config that tells the number of attention heads; {NAME_THEM}"
    return (
        f"{name} computes {shape_of(module)[1]} columns, which are not {heads} heads of queries of width {width}, or "
        "such heads of keys and values; find out in the model's code what they are and add a row to ARCHITECTURES, or "
        f"{NAME_THEM}"
    )


def _how_to_add(kind: str, names: Sequence[str]) -> str:
    """Say that the architecture is unknown, and what to do: as a program only where names tell what is q, k and v."""
    start = (
        f"the architecture {kind!r} is not supported; known are q_proj, k_proj and v_proj beside each other, and "
        f"{', '.join(ARCHITECTURES)}. Its linear modules are {', '.join(names) or 'none'}. "
    )
    if any(ends_with(name, "kv_b_proj") for name in names):
        return (
            f"{start}Its keys and values come from one low-rank projection (kv_b_proj), so its linear modules have no "
            f"slices q, k and v; {NAME_THEM}"
        )
    found = _sorted_qkv(names)
    if found is None:
        return (
            f"{start}Which of their columns are q, k and v only the model's code tells. If one module computes them "
            "side by side, [q, k, v], or head by head, [q_1, k_1, v_1, q_2, ...], add a row AttentionLayout((NAME "
            f"within a block,), by_head=False or True) to loda.architectures.ARCHITECTURES; otherwise {NAME_THEM}"
        )
    return (
        f"{start}{NAME_THEM[0].upper()}{NAME_THEM[1:]}, or add the architecture:\n"
        "    from loda.architectures import ARCHITECTURES, AttentionLayout\n"
        f"    qkv = {found}  # within a block: q, k and v\n"
        f"    ARCHITECTURES[{kind!r}] = AttentionLayout(qkv)"
    )


def _sorted_qkv(names: Iterable[str]) -> tuple[str, ...] | None:
    """Return the three modules of a block whose names say q, k and v, in this order, if there is one such triple."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        within = name.rpartition("*.")[2]
        parent, _, own = within.rpartition(".")
        words = set(own.lower().replace("query", "q").replace("key", "k").replace("value", "v").split("_"))
        if words & {*QKV}:
            found.setdefault(parent, []).append(("".join(sorted(words & {*QKV})), within))
    triples = [dict(parts) for parts in found.values() if sorted(letters for letters, _ in parts) == sorted(QKV)]
    return tuple(triples[0][letter] for letter in QKV) if len(triples) == 1 else None
