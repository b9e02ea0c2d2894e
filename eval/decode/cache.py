"""The keys and values of a beam search, without copying what stays.

The cache of transformers grows by a copy of everything at each step, and a change of beams copies everything again.
Here there is room for all that will be generated from the start, a step writes its own token alone, and of a beam that
takes another's place only what was generated moves: the prompt is the same for all beams of an example.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class BeamCache(Cache):
    """A cache for prompts of one row each, which the first selection of rows spreads to the beams.

    Later selections either take as many rows as there are, each from another beam of its example, or fewer.
    """

    def __init__(self, max_new_tokens: int) -> None:
        super().__init__(layer_class_to_replicate=partial(_Layer, max_new_tokens))  # type: ignore[arg-type]

    def select(self, rows: Tensor) -> None:
        """Let row i be what row rows[i] is."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().flatten()
        for layer in self.layers:
            cast(_Layer, layer).select(rows, moved)


class _Layer(DynamicLayer):
    """Keys and values of one layer: at first the prompts', then views on what is filled of larger tensors."""

    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.prompt = 0
        self.whole: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens, (rows, heads, tokens, width); returns all."""
        if self.whole is None:
            return super().update(key_states, value_states, *args, **kwargs)
        filled = self.keys.shape[-2]
        length = filled + key_states.shape[-2]
        for part, new in zip(self.whole, (key_states, value_states), strict=True):
            part[:, :, filled:length] = new
        self._show(length)
        return self.keys, self.values

    def select(self, rows: Tensor, moved: Tensor) -> None:
        """See `BeamCache.select`; `moved` are the i with rows[i] != i."""
        filled = self.keys.shape[-2]
        if self.whole is None:
            self.prompt = filled
            self.whole = (self._with_room(self.keys, rows), self._with_room(self.values, rows))
        elif len(rows) < len(self.keys):
            self.whole = (self.whole[0][rows], self.whole[1][rows])
        else:
            for part in self.whole:
                generated = part[:, :, self.prompt : filled]
                generated[moved] = generated[rows[moved]]
        self._show(filled)

    def _with_room(self, prompts: Tensor, rows: Tensor) -> Tensor:
        _, heads, length, width = prompts.shape
        part = prompts.new_empty(len(rows), heads, length + self.room, width)
        part[:, :, :length] = prompts[rows]
        return part

    def _show(self, length: int) -> None:
        assert self.whole is not None
        self.keys, self.values = (part[:, :, :length] for part in self.whole)
