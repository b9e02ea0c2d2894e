"""Prefix-tuning (Li & Liang, 2021; "PreLayer" in the paper): learned keys and values before those of every layer.

    P = MLP(E),  MLP(e) = tanh(e W_1 + b_1) W_2 + b_2        P: (length, layers, 2, heads, d / heads)

Training learns an embedding E (length, d) and the MLP, 25,744,896 numbers on GPT2-medium; only P is saved, 5 * 24 * 2
* 1024 = 245,760 numbers. A loaded prefix is P itself, and training it further trains P directly.
"""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers import Cache, DynamicCache

from loda.adapters.insertion import Insertion
from loda.architectures import kind_of
from loda.errors import LodaError
from loda.settings import settings


@settings
class PrefixConfig:
    """Prefix-tuning; `slices` has no effect.

    Attributes:
        length: positions of the prefix (Li & Liang: 5 for E2E and WebNLG, 10 for DART).
        hidden: width of the MLP that produces P in training (Li & Liang: 512).
        shift_positions: whether the tokens' position ids begin after the prefix, as in Li & Liang's code, or at 0.

    Raises:
        LodaError: length < 1 or hidden < 1.
    """

    name: ClassVar[str] = "prefix"
    length: int = Field(default=5, ge=1, le=65536, description="Li & Liang use 5 and 10")
    hidden: int = Field(default=512, ge=1, le=65536, description="Li & Liang use 512")
    shift_positions: bool = True

    def check(self, model: nn.Module, adapted: Sequence[str]) -> None:
        """Raise LodaError unless `model` is a GPT-2 without cross-attention."""
        if kind_of(model) != "gpt2":
            raise LodaError(
                f"adapter=prefix acts on the cache and the positions of GPT-2, and {kind_of(model)} counts them "
                "otherwise; use another adapter"
            )
        if cast(Any, model).config.add_cross_attention:
            raise LodaError("adapter=prefix would stand before the keys of cross-attention too; use another adapter")

    def attach(self, model: nn.Module) -> None:
        """Put the prefix before the tokens of the transformer."""
        transformer: Any = cast(Any, model).base_model
        PrefixAdapter(self, transformer.config).insert(transformer, model)


class PrefixAdapter(Insertion):
    """P = MLP(E): () -> (length, layers, 2, heads, d / heads), keys and values for every layer.

    Until `fold`, P is computed from E and the MLP; afterwards P is a parameter. There is no zero map: even a prefix of
    zeros takes its share of the attention, so training does not start from the base.

    P stands before what the model's cache returns, in every forward pass, and never in it. So training and decoding,
    with a cache of any kind or without, are the same computation, and left-padded batches work.
    """

    def __init__(self, config: PrefixConfig, base: Any) -> None:
        super().__init__()
        width = base.hidden_size
        self.shift_positions = config.shift_positions
        self.shape = (config.length, base.num_hidden_layers, 2, base.num_attention_heads, -1)
        self.positions = base.max_position_embeddings
        self.embedding = nn.Parameter(torch.randn(config.length, width))
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.Tanh(),
            nn.Linear(config.hidden, base.num_hidden_layers * 2 * width),
        )

    def forward(self) -> Tensor:
        """Compute P."""
        flat = self.prefix if hasattr(self, "prefix") else self.mlp(self.embedding)
        return cast(Tensor, flat).view(self.shape)

    def folded(self) -> dict[str, nn.Parameter]:
        """Return P, the parameter that `fold` leaves."""
        return {"prefix": nn.Parameter(self().detach().flatten(1))}

    def fold(self) -> None:
        """Keep P, drop E and the MLP."""
        folded = self.folded()
        del self.embedding, self.mlp
        for name, parameter in folded.items():
            self.register_parameter(name, parameter)

    def macs(self) -> int:
        """Multiply-accumulates per token: 2d for each layer and position, scores and weighted sum of values."""
        return self.folded()["prefix"].numel()

    def hook(self, host: nn.Module) -> list[RemovableHandle]:
        """Act before and after every forward pass of the transformer."""
        self.arguments = tuple(inspect.signature(host.forward).parameters)
        return [host.register_forward_pre_hook(self._prepend, with_kwargs=True), host.register_forward_hook(_uncover)]

    def _prepend(self, host: Any, args: Any, kwargs: Any) -> tuple[tuple[()], dict[str, Any]]:
        """Put the prefix before the cache, and make positions and attention mask match."""
        if host.gradient_checkpointing and host.training:
            raise LodaError(
                "gradient checkpointing drops the cache that a prefix stands before; "
                "call model.gradient_checkpointing_disable()"
            )
        given = dict(zip(self.arguments, args, strict=False)) | kwargs
        if given.get("cache") is not None:
            raise LodaError("generate_batch keeps keys and values where a prefix cannot stand; call model.generate")
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        new, length = tokens.shape[1], self.shape[0]
        cache = given.get("past_key_values")
        cache = DynamicCache(config=host.config) if cache is None else cache
        positions = given.get("position_ids")
        if positions is None:
            positions = (torch.arange(new, device=tokens.device) + cache.get_seq_length())[None]
        if self.shift_positions:
            positions = positions + length
            room, _ = cache.get_mask_sizes(new, 0)  # all tokens so far, or the size of a static cache
            if room + length > self.positions:
                raise LodaError(
                    f"a prefix of {length} and {room} tokens exceed the model's {self.positions} positions; "
                    "shorten the text, or the cache if it has a fixed size, or set shift_positions=false"
                )
        return (), given | {
            "past_key_values": PrefixedCache(cache, self()),
            "position_ids": positions,
            "attention_mask": _with_columns(given.get("attention_mask"), length),
        }


class PrefixedCache(Cache):
    """A cache of any kind, seen with a prefix before the keys and values that it returns.

    The cache itself holds tokens only, so everything that is done to it between forward passes is right: handing it on,
    cropping, reordering, a fixed size.

    Args:
        cache: the cache of the tokens.
        prefix: (length, layers, 2, heads, d / heads).
    """

    def __init__(self, cache: Cache, prefix: Tensor) -> None:
        super().__init__(layers=cache.layers)
        self.cache = cache
        self.length = prefix.shape[0]
        self.prefix = prefix.permute(1, 2, 3, 0, 4)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Add new keys and values (rows, heads, tokens, width) to the cache; return all with the prefix before them."""
        found = self.cache.update(key_states, value_states, layer_idx, *args, **kwargs)
        pairs = zip(self.prefix[layer_idx], found, strict=True)
        return tuple(torch.cat([p.to(x).expand(len(x), -1, -1, -1), x], dim=-2) for p, x in pairs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions so far."""
        return self.cache.get_seq_length(layer_idx) + self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Positions that `update` will return, and the first of them."""
        length, offset = self.cache.get_mask_sizes(query_length, layer_idx)
        return length + self.length, offset


def _with_columns(mask: Any, length: int) -> Tensor | None:
    """Let every token see `length` more positions: mask (rows, positions), or prepared (rows, 1, tokens, positions)."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise LodaError(
            "a prefix needs an attention mask of (rows, tokens) or (rows, 1, tokens, tokens), and this one is a "
            f"{type(mask).__name__} of {tuple(mask.shape)}; give that, or take another attention implementation"
        )
    # A prepared mask of numbers is added to the scores, where 0 hides nothing.
    return F.pad(mask, (length, 0), value=mask.ndim == 2 or mask.dtype == torch.bool)


def _uncover(host: nn.Module, args: Any, output: Any) -> Any:
    """Return the cache of the tokens alone."""
    if isinstance(output, tuple):
        return tuple(part.cache if isinstance(part, PrefixedCache) else part for part in output)
    if output.past_key_values is not None:
        output.past_key_values = output.past_key_values.cache
    return output
