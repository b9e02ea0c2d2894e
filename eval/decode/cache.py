"""The keys and values of a beam search, without copying what stays.

transformers' cache copies everything at each step, and again when beams are reordered. This one allocates room for
all tokens at the start, writes only the new token at each step, and moves only generated tokens between beams: all
beams of an example share its prompt.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class BeamCache(Cache):
    """A cache that begins with one row per prompt; the first `select` repeats each prompt for its beams.

    Every later `select` either keeps the number of rows, and row i comes from a beam of the same example, or drops
    whole examples.
    """

    def __init__(self, max_new_tokens: int) -> None:
        super().__init__(layer_class_to_replicate=partial(_Layer, max_new_tokens))  # type: ignore[arg-type]

    def select(self, rows: Tensor) -> None:
        """Reorder rows: new row i is old row rows[i]."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().flatten()
        for layer in self.layers:
            cast(_Layer, layer).select(rows, moved)


class _Layer(DynamicLayer):
    """Keys and values of one layer: at first those of the prompts, then views of the filled part of `buffers`."""

    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.prompt_length = 0
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens, (rows, heads, tokens, width); returns all."""
        if self.buffers is None:
            return super().update(key_states, value_states, *args, **kwargs)
        filled = self.keys.shape[-2]
        length = filled + key_states.shape[-2]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, filled:length] = new
        self._show(length)
        return self.keys, self.values

    def select(self, rows: Tensor, moved: Tensor) -> None:
        """See `BeamCache.select`; `moved` are the i with rows[i] != i."""
        filled = self.keys.shape[-2]
        if self.buffers is None:
            self.prompt_length = filled
            self.buffers = (self._with_room(self.keys, rows), self._with_room(self.values, rows))
        elif len(rows) < len(self.keys):
            self.buffers = (self.buffers[0][rows], self.buffers[1][rows])
        else:
            for buffer in self.buffers:
                generated = buffer[:, :, self.prompt_length : filled]
                generated[moved] = generated[rows[moved]]
        self._show(filled)

    def _with_room(self, prompts: Tensor, rows: Tensor) -> Tensor:
        _, heads, length, width = prompts.shape
        buffer = prompts.new_empty(len(rows), heads, length + self.room, width)
        buffer[:, :, :length] = prompts[rows]
        return buffer

    def _show(self, length: int) -> None:
        assert self.buffers is not None
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)
