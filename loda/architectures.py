"""Where the query, key and value projections and the blocks of a model are, and how its weights are laid out.

The rest of the library sees a weight as (d_in, d_out) and a slice as columns of it. Linear modules `q_proj`, `k_proj`
and `v_proj` beside each other are found by rule (`SPLIT`). Other architectures have a row in `ARCHITECTURES`; add one,
here or from outside.
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
            By default they are the two children of the block that hold matrices, attention and feed-forward network.
        by_head: whether a fused module is ordered head by head, [q_1, k_1, v_1, q_2, ...], or group by group with
            grouped queries.
        gated: whether the first of three modules computes a gate behind the queries of each head, [q_1, gate_1, q_2,
            ...]. The gate is a slice of its own, "gate".

    Raises:
        LodaError: neither one projection nor three.
    """

    projections: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    by_head: bool = False
    gated: bool = False

    def __post_init__(self) -> None:
        if len(self.projections) not in (1, len(QKV)):
            raise LodaError(
                f"projections={self.projections} must name one module that computes q, k and v, or three, in this order"
            )

    @property
    def is_fused(self) -> bool:
        """Whether one module computes q, k and v."""
        return len(self.projections) == 1

    def slices(self, ending: str, d_out: int, heads: int, width: int) -> dict[str, FusedSlice]:
        """Return the slices of the projection `ending`, which has `d_out` columns; {} if they do not fit.

        Queries have `heads` heads of `width` columns. Keys and values have equally wide heads, whose number divides
        that of the queries. Without a known number of heads, 0, only three modules without gate are sure.
        """
        if not heads:
            return {} if self.is_fused or self.gated else {QKV[self.projections.index(ending)]: FusedSlice(0, d_out)}
        if self.is_fused:
            shared = (d_out - heads * width) // (2 * width)
            if shared < 1 or heads % shared or d_out != (heads + 2 * shared) * width:
                return {}
            runs = shared if self.by_head else 1
            ends = [n * width // runs for n in (heads, heads + shared, heads + 2 * shared)]
            return {n: FusedSlice(a, b, runs) for n, a, b in zip(QKV, [0, *ends[:2]], ends, strict=True)}
        name = QKV[self.projections.index(ending)]
        if name == "q" and self.gated:
            parts = {"q": FusedSlice(0, width, heads), "gate": FusedSlice(width, 2 * width, heads)}
            return parts if d_out == 2 * heads * width else {}
        fits = d_out == heads * width if name == "q" else d_out % width == 0 and heads * width % d_out == 0
        return {name: FusedSlice(0, d_out)} if fits else {}


SPLIT = AttentionLayout(("q_proj", "k_proj", "v_proj"))
"""The layout of every architecture without a row."""

_GATED = AttentionLayout(SPLIT.projections, gated=True)
ARCHITECTURES: dict[str, AttentionLayout] = {
    "gpt2": AttentionLayout(("attn.c_attn",), outputs=("attn.c_proj", "mlp.c_proj")),
    # With one head of keys and values both orders are the same, so these rows hold for multi-query models too.
    "gpt_bigcode": AttentionLayout(("attn.c_attn",), by_head=True),
    "falcon": AttentionLayout(("self_attention.query_key_value",), by_head=True),
    "gpt_neox": AttentionLayout(
        ("attention.query_key_value",), outputs=("attention.dense", "mlp.dense_4h_to_h"), by_head=True
    ),
    # The sub-layers of BLOOM and MPT add the residual stream themselves, so these rows name the modules before.
    "bloom": AttentionLayout(
        ("self_attention.query_key_value",), outputs=("self_attention.dense", "mlp.dense_4h_to_h"), by_head=True
    ),
    "mpt": AttentionLayout(("attn.Wqkv",), outputs=("attn.out_proj", "ffn.down_proj")),
    "persimmon": AttentionLayout(("self_attn.query_key_value",), by_head=True),
    "phi3": AttentionLayout(("self_attn.qkv_proj",), outputs=("self_attn.o_proj", "mlp.down_proj")),
    "qwen3_next": _GATED,
    "qwen3_5_text": _GATED,
    "qwen3_5_moe_text": _GATED,
}
"""The layouts by `model_type` of the configuration of the model, or of the language model within it."""

_NAME_THEM = "name the modules to adapt with targets (in PEFT target_modules), whole with slices=('all',)"
_LAYER = re.compile(r"(?:.*?\.)??[^.\d][^.]*\.(\d+)\.")


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
        kind = type(self.module)
        # Falcon's own class computes x W + b too. Naming it spares importing the model.
        is_usual = kind.forward in (Conv1D.forward, nn.Linear.forward) or kind.__name__ == "FalconLinear"
        return is_usual and type(weight) is nn.Parameter

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
    """Whether a module can be adapted. Routers of experts that subclass `nn.Linear` return more than x W."""
    return isinstance(module, (Conv1D, nn.Linear)) and not type(module).__name__.endswith("Router")


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Return (d_in, d_out) of a linear module; the weight of a quantised one has another shape."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    linear = cast(nn.Linear, module)
    return linear.in_features, linear.out_features


def oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """Turn the weight of `module` into a view (d_in, d_out), or a (d_in, d_out) weight into the layout of `module`."""
    return weight if isinstance(module, Conv1D) else weight.T


def find_attention(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the modules that compute q, k and v, with or without adapters in them: which of these, by name, in order.

    Only the softmax self-attention of the language model counts, not cross-attention, linear attention or the vision
    tower of a multimodal model.

    Raises:
        LodaError: an unknown architecture, with how to add it, or an encoder-decoder.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise LodaError(
            f"{kind_of(model)} is an encoder-decoder, whose encoder, decoder and cross-attention each have q, k and v; "
            f"{_NAME_THEM}"
        )
    kind = config.get_text_config(decoder=True).model_type if hasattr(config, "get_text_config") else None
    modules = {n: m for n, m in model.named_modules() if kind in (None, kind_of(model, n))}
    found: dict[str, tuple[str, ...]] = {}
    for name, module in modules.items():
        place = _place(model, name)
        if not (place or _ends_with(name, "q_proj")) or _is_other_attention(model, name):
            continue
        if place is None or (is_linear(module) and target_of(model, name, module).block is None):
            raise LodaError(_does_not_fit(model, name, module))
        layout, ending = place
        found[name] = QKV if layout.is_fused else (QKV[layout.projections.index(ending)],)
    if not found:
        raise LodaError(_how_to_add(kind or kind_of(model), _with_stars(n for n, m in modules.items() if is_linear(m))))
    return found


def find_blocks(model: nn.Module) -> list[Block]:
    """Return the transformer blocks of `model` in order, with or without adapters in them.

    Blocks beside those with attention count too, such as those of a hybrid model that hold linear attention.
    """
    attention = {_block_of(name): name for name in find_attention(model)}
    blocks = []
    for name in dict.fromkeys(beside for block in attention for beside in _stack_of(model, block)):
        block, inside = model.get_submodule(name), attention.get(name)
        named = layout_of(model, inside).outputs if inside else ()
        outputs = tuple(block.get_submodule(output) for output in named) or _sublayers(block)
        blocks.append(Block(block, outputs, _config(model, f"{name}.").hidden_size))
    return blocks


def find_targets(
    model: nn.Module,
    targets: Sequence[str] | str = (),
    exclude_modules: Sequence[str] | str = (),
    layers_to_transform: Sequence[int] = (),
) -> list[TargetModule]:
    """Return the attention projections of `model`, in order, or the linear modules that the settings name, as in PEFT.

    Args:
        model: the model, without adapters.
        targets: ends of names, or a regular expression of whole names; without, the attention projections.
        exclude_modules: the same, for modules to leave out.
        layers_to_transform: numbers of the layers to adapt; without, all.

    Raises:
        LodaError: an unknown architecture and no names, a name without a module, a parameter that is no linear module,
            a layer without a module, nothing left, or a module at two places.
    """
    linear = [name for name, module in model.named_modules() if is_linear(module)]
    if targets:
        _check_parameters(model, targets, exclude_modules)
        _check_names("targets", targets, linear, model)
    names = [name for name in linear if _matches(name, targets)] if targets else list(find_attention(model))
    for name in set(names) - set(linear):
        raise LodaError(f"{name} is a {type(_module(model, name)).__name__}, no linear module; {_NAME_THEM}")
    _check_names("exclude_modules", exclude_modules, names, model)
    names = [name for name in names if not _matches(name, exclude_modules)]
    layers = dict.fromkeys(layer_of(name) for name in names)
    missing = set(layers_to_transform) - layers.keys()
    if missing:
        others = ", ".join(str(layer) for layer in layers if layer is not None) or "none"
        raise LodaError(
            f"layers_to_transform: layer {min(missing)} holds none of the modules to adapt, but {others} do"
        )
    names = [name for name in names if not layers_to_transform or layer_of(name) in layers_to_transform]
    if not names:
        raise LodaError(f"exclude_modules={exclude_modules} leaves no module to adapt; exclude fewer")
    found = [target_of(model, name, model.get_submodule(name)) for name in names]
    check_places(model, found)
    return found


def target_of(model: nn.Module, name: str, module: nn.Module) -> TargetModule:
    """Return the linear `module` called `name` in `model`, with its slices.

    A module that is no attention projection, or whose columns do not fit its layout, has the one slice `ALL`.
    """
    d_out, place = shape_of(module)[1], _place(model, name)
    slices = place[0].slices(place[1], d_out, *_heads(model, name)) if place else {}
    if slices:
        return TargetModule(name, module, slices, _block_of(name))
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
    whole = [target.name for target in targets if ALL in target.slices]
    if whole and ALL not in slices:
        try:
            find_attention(model)
        except LodaError as error:
            raise LodaError(f"slices={tuple(slices)} of {whole[0]}: {error}") from None
    bare = [target for target in targets if target.is_bare(slices)]
    if bare and not (approximated and len(bare) < len(targets)):
        raise LodaError(
            f"targets name {bare[0].name}, which is {', '.join(bare[0].slices)}; slices={tuple(slices)} would leave it "
            "without an adapter: add to the slices, or leave it out of the targets"
        )


def layout_of(model: nn.Module, name: str) -> AttentionLayout:
    """Return the layout of the attention at the module `name` of `model`."""
    return ARCHITECTURES.get(kind_of(model, name), SPLIT)


def kind_of(model: nn.Module, name: str = "") -> str:
    """Return the `model_type` of `model`, or of the model within it to which the module `name` belongs."""
    return str(getattr(_config(model, name), "model_type", type(model).__name__))


def _config(model: nn.Module, name: str) -> Any:
    """Return the configuration of the innermost module around `name` that has one; None without."""
    parents = name.split(".")[:-1]
    for end in range(len(parents), -1, -1):
        config = getattr(_module(model, ".".join(parents[:end])), "config", None)
        if hasattr(config, "model_type"):
            return config
    return None


def _module(model: nn.Module, name: str) -> nn.Module | None:
    """Return the module called `name`, or None; some models set a module that they do without to None."""
    found: Any = model
    for part in filter(None, name.split(".")):
        found = getattr(found, part, None)
    return found if isinstance(found, nn.Module) else None


def _place(model: nn.Module, name: str) -> tuple[AttentionLayout, str] | None:
    """Return layout and ending of the attention projection `name`, beside which the others are; None for others."""
    layout = layout_of(model, name)
    for ending in layout.projections:
        if _ends_with(name, ending):
            beside = [_module(model, name.removesuffix(ending) + other) for other in layout.projections]
            return (layout, ending) if all(beside) else None
    return None


def _heads(model: nn.Module, name: str) -> tuple[int, int]:
    """Return the number of query heads of the attention around the module `name` and the width of one; 0 if unknown."""
    config = _config(model, name)
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        return 0, 0
    own = getattr(_module(model, name.rpartition(".")[0]), "head_dim", None)
    return heads, own or getattr(config, "head_dim", None) or config.hidden_size // heads


def _is_other_attention(model: nn.Module, name: str) -> bool:
    """Whether the module `name` belongs to cross-attention or linear attention, by the names of module and class."""
    attention = name.rpartition(".")[0]
    words = f"{attention.rpartition('.')[2]} {type(_module(model, attention)).__name__}"
    return re.search(r"(?i)cross|encoder_attn|x_attn|linear|delta", words) is not None


def layer_of(name: str) -> int | None:
    """Return the number of the layer to which a module belongs: the first number after a name."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def _block_of(name: str) -> str:
    """Return the name of the block to which a module belongs; "" without a number."""
    found = _LAYER.match(name)
    return found[0].removesuffix(".") if found else ""


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


def _ends_with(name: str, ending: str) -> bool:
    """Whether the last components of a module's name are `ending`."""
    return f".{name}".endswith(f".{ending}")


def _matches(name: str, wanted: Sequence[str] | str) -> bool:
    """Whether `name` is among `wanted`: ends of names, or a regular expression of the whole name."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(_ends_with(name, ending) for ending in wanted)


def _check_names(setting: str, wanted: Sequence[str] | str, names: Sequence[str], model: nn.Module) -> None:
    """Raise LodaError if one of `wanted` matches none of the modules `names`."""
    for one in (wanted,) if isinstance(wanted, str) else [(ending,) for ending in wanted]:
        if one and not any(_matches(name, one) for name in names):
            label = one if isinstance(one, str) else f"*.{one[0]}"
            raise LodaError(
                f"{setting}: no linear module named {label} was found in this model; "
                f"its linear modules are {', '.join(_linear_names(model)) or 'none'}"
            )


def _check_parameters(model: nn.Module, targets: Sequence[str] | str, exclude_modules: Sequence[str] | str) -> None:
    """Raise LodaError if `targets` name a parameter that holds several matrices, as fused experts do."""
    for name, parameter in model.named_parameters():
        names = (name, name.rpartition(".")[0])
        named = [any(_matches(n, wanted) for n in names) for wanted in (targets, exclude_modules)]
        if parameter.ndim > 2 and named == [True, False]:
            raise LodaError(
                f"targets name {name}, a parameter of shape {tuple(parameter.shape)} and no linear module, as the "
                "experts of a mixture are; LoDA adapts linear modules: name others, or add to exclude_modules"
            )


def _linear_names(model: nn.Module) -> list[str]:
    """Return the distinct names of the linear modules, with * for numbers."""
    return _with_stars(name for name, module in model.named_modules() if is_linear(module))


def _with_stars(names: Iterable[str]) -> list[str]:
    """Return the distinct `names`, with * for numbers."""
    return list(dict.fromkeys(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for name in names if name))


def _does_not_fit(model: nn.Module, name: str, module: nn.Module) -> str:
    """Say why the columns of the module `name`, of attention, are not its q, k or v."""
    if not _place(model, name):
        return f"{name} has no k_proj and v_proj of its own beside it, so its attention cannot be told; {_NAME_THEM}"
    heads, width = _heads(model, name)
    if not heads:
        return f"{type(model).__name__} has no config that tells the number of attention heads; {_NAME_THEM}"
    return (
        f"{name} computes {shape_of(module)[1]} columns, which are not {heads} heads of queries of width {width}, or "
        "such heads of keys and values; find out in the model's code what they are and add a row to ARCHITECTURES, or "
        f"{_NAME_THEM}"
    )


def _how_to_add(kind: str, names: Sequence[str]) -> str:
    """Say that the architecture is unknown, and what to do: as a program only where names tell what is q, k and v."""
    start = (
        f"the architecture {kind!r} is not supported; known are q_proj, k_proj and v_proj beside each other, and "
        f"{', '.join(ARCHITECTURES)}. Its linear modules are {', '.join(names) or 'none'}. "
    )
    if any(_ends_with(name, "kv_b_proj") for name in names):
        return (
            f"{start}Its keys and values come from one low-rank projection (kv_b_proj), so its linear modules have no "
            f"slices q, k and v; {_NAME_THEM}"
        )
    found = _sorted_qkv(names)
    if found is None:
        return (
            f"{start}Which of their columns are q, k and v only the model's code tells. If one module computes them "
            "side by side, [q, k, v], or head by head, [q_1, k_1, v_1, q_2, ...], add a row AttentionLayout((NAME "
            f"within a block,), by_head=False or True) to loda.architectures.ARCHITECTURES; otherwise {_NAME_THEM}"
        )
    return (
        f"{start}{_NAME_THEM[0].upper()}{_NAME_THEM[1:]}, or add the architecture:\n"
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
