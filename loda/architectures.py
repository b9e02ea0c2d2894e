"""How the attention of an architecture is laid out, and what the name and shape of a module say about it.

The rest of the library sees a weight as (d_in, d_out) and a slice as columns of it. Linear modules `q_proj`, `k_proj`
and `v_proj` beside each other are found by rule (`SPLIT`). Other architectures have a row in `ARCHITECTURES`; add one,
here or from outside.
"""

import re
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loda.errors import LodaError
from loda.projection import FusedSlice

QKV = ("q", "k", "v")
ALL = "all"
"""The slice of a module outside attention: all its columns."""

GATED = (("gate_proj", "up_proj"), ("wi_0", "wi_1"), ("w1", "w3"))
"""The names of the two modules of a gated MLP that read its input."""


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

_LAYER = re.compile(r"(?:.*?\.)??[^.\d][^.]*\.(\d+)\.")


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


def layout_of(model: nn.Module, name: str) -> AttentionLayout:
    """Return the layout of the attention at the module `name` of `model`."""
    return ARCHITECTURES.get(kind_of(model, name), SPLIT)


def kind_of(model: nn.Module, name: str = "") -> str:
    """Return the `model_type` of `model`, or of the model within it to which the module `name` belongs."""
    return str(getattr(config_of(model, name), "model_type", type(model).__name__))


def config_of(model: nn.Module, name: str) -> Any:
    """Return the configuration of the innermost module around `name` that has one; None without."""
    parents = name.split(".")[:-1]
    for end in range(len(parents), -1, -1):
        config = getattr(module_of(model, ".".join(parents[:end])), "config", None)
        if hasattr(config, "model_type"):
            return config
    return None


def module_of(model: nn.Module, name: str) -> nn.Module | None:
    """Return the module called `name`, or None; some models set a module that they do without to None."""
    found: Any = model
    for part in filter(None, name.split(".")):
        found = getattr(found, part, None)
    return found if isinstance(found, nn.Module) else None


def place_of(model: nn.Module, name: str) -> tuple[AttentionLayout, str] | None:
    """Return layout and ending of the attention projection `name`, beside which the others are; None for others."""
    layout = layout_of(model, name)
    for ending in layout.projections:
        if ends_with(name, ending):
            beside = [module_of(model, name.removesuffix(ending) + other) for other in layout.projections]
            return (layout, ending) if all(beside) else None
    return None


def heads_of(model: nn.Module, name: str) -> tuple[int, int]:
    """Return the number of query heads of the attention around the module `name` and the width of one; 0 if unknown."""
    config = config_of(model, name)
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        return 0, 0
    own = getattr(module_of(model, name.rpartition(".")[0]), "head_dim", None)
    return heads, own or getattr(config, "head_dim", None) or config.hidden_size // heads


def slices_of(model: nn.Module, name: str, d_out: int) -> dict[str, FusedSlice]:
    """Return the slices of the attention projection `name`, which has `d_out` columns.

    They are {} for other modules, and if the columns do not fit the layout.
    """
    place = place_of(model, name)
    return place[0].slices(place[1], d_out, *heads_of(model, name)) if place else {}


def layer_of(name: str) -> int | None:
    """Return the number of the layer to which a module belongs: the first number after a name."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def block_of(name: str) -> str:
    """Return the name of the block to which a module belongs; "" without a number."""
    found = _LAYER.match(name)
    return found[0].removesuffix(".") if found else ""


def group_of(name: str, is_attention: bool) -> str:
    """Return the same text for the modules that read the same input: those of an attention, or of a gated MLP."""
    parent, _, own = name.rpartition(".")
    beside = next((names for names in GATED if own in names), (own,))
    reads_another = (
        re.search(r"(?i)cross|encoder_?attn|encdec|x_attn", parent) is not None
    )  # where q reads and k does not
    return parent if is_attention and not reads_another else f"{parent}.{'+'.join(beside)}"


def ends_with(name: str, ending: str) -> bool:
    """Whether the last components of a module's name are `ending`."""
    return f".{name}".endswith(f".{ending}")
