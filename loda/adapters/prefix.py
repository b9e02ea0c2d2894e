"""Prefix-tuning (Li & Liang, 2021; "PreLayer" in the paper): learned keys and values before those of every layer.

    P = MLP(E),  MLP(e) = tanh(e W_1 + b_1) W_2 + b_2        P: (length, layers, 2, heads, d / heads)

Training learns an embedding E (length, d) and the MLP, 25,744,896 numbers on GPT2-medium; only P is saved, 5 * 24 * 2
* 1024 = 245,760 numbers. A loaded prefix is P itself, and training it further trains P directly.
"""

import inspect
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

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

    def check(self, model: nn.Module) -> None:
        """Raise LodaError unless `model` is a GPT-2."""
        if kind_of(model) != "gpt2":
            raise LodaError(
                f"adapter=prefix acts on the cache and the positions of GPT-2, and {kind_of(model)} counts them "
                "otherwise; use another adapter"
            )

    def attach(self, model: nn.Module) -> None:
        """Put the prefix before the tokens of the transformer."""
        transformer: Any = cast(Any, model).base_model
        PrefixAdapter(self, transformer.config).insert(transformer, model)


class PrefixAdapter(Insertion):
    """P = MLP(E): () -> (length, layers, 2, heads, d / heads), keys and values for every layer.

    Until `fold`, P is computed from E and the MLP; afterwards P is a parameter. There is no zero map: even a prefix of
    zeros takes its share of the attention, so training does not start from the base.

    P goes into the model's cache before the first token. So training and decoding, with a cache or without, are the
    same computation, and left-padded batches work.
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

    def hook(self, host: nn.Module) -> RemovableHandle:
        """Act before every forward pass of the transformer."""
        return host.register_forward_pre_hook(self._prepend, with_kwargs=True)

    def _prepend(self, host: Any, args: Any, kwargs: Any) -> tuple[tuple[()], dict[str, Any]]:
        """Fill an empty cache with the prefix, and make positions and attention mask match."""
        if host.gradient_checkpointing and host.training:
            raise LodaError(
                "gradient checkpointing drops the cache that a prefix stands in; "
                "call model.gradient_checkpointing_disable()"
            )
        given = inspect.signature(host.forward).bind(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        rows, new = tokens.shape[:2]
        length = self.shape[0]

        cache = given.get("past_key_values")
        cache = DynamicCache(config=host.config) if cache is None else cache
        if cache.get_seq_length() == 0:
            for layer, (keys, values) in enumerate(self().to(host.dtype).permute(1, 2, 3, 0, 4)):
                cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        seen = cache.get_seq_length() - length

        positions = given.get("position_ids")
        if positions is None:
            positions = torch.arange(seen, seen + new, device=tokens.device)[None]
        if self.shift_positions:
            positions = positions + length
            if seen + new + length > self.positions:
                raise LodaError(
                    f"a prefix of {length} and {seen + new} tokens exceed the model's {self.positions} positions; "
                    "shorten the text or set shift_positions=false"
                )
        mask = given.get("attention_mask")
        if mask is not None:
            if mask.ndim != 2:
                raise LodaError(
                    f"a prefix needs an attention mask of (rows, tokens), not of {mask.ndim} dimensions; "
                    "give that, and no cache of fixed size"
                )
            mask = torch.cat([mask.new_ones(rows, length), mask], dim=1)
        return (), given | {"past_key_values": cache, "position_ids": positions, "attention_mask": mask}
