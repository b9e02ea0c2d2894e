"""The keys and values of a beam search: a prompt's once for all its beams, a generated token's where it was written.

transformers' cache keeps a prompt in every row, and reorders all when beams move. Here a row knows the places of its
generated tokens, and each step gathers them into memory that is used again. So beams can be dropped one by one, and the
queries of all beams of a prompt meet its keys in one product. That takes an attention of our own, which knows nothing
but softmax(s q K^T) V. For architectures that add something to it, every row is given its prompt again at each step.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

ATTENTION = "shared_prompts"


class BeamCache(Cache):
    """A cache that begins with a row for each prompt; from the first `select` on, a prompt has up to `beams` rows.

    Args:
        mask: (prompts, positions), 1 where the padded prompt has a token.
        room: the most tokens of generated text that will be stored.
        beams: the most rows of a prompt.
        shared: whether the model attends by `shared_prompts` after the first `select`.

    Attributes:
        places: (rows, tokens) where the keys and values of the generated tokens of each row lie.
        prompt: (rows,) which prompt a row continues, ascending.
        rows: (prompts, width) the rows of each prompt, `width` being the most that one has.
        taken: (prompts, width) False where `rows` has more columns than the prompt has rows.
        slots: (rows,) the place of each row in the flat `rows`.
        hidden: (prompts, 1, 1, positions) what is added to the scores of attention: -inf on padding.
    """

    def __init__(self, mask: Tensor, room: int, beams: int, shared: bool) -> None:
        super().__init__(layer_class_to_replicate=partial(_Layer, self))  # type: ignore[arg-type]
        self.room, self.shared = len(mask) * beams * room, shared
        self.scratch: dict[tuple[str, torch.Size], Tensor] = {}
        self.stored = 0
        self.places = torch.empty(len(mask), 0, dtype=torch.long, device=mask.device)
        self._lay_out(mask, torch.arange(len(mask), device=mask.device))

    def select(self, rows: Tensor) -> None:
        """New row i continues old row rows[i], by one token; prompts without a row are forgotten.

        Rows of a prompt stay together.
        """
        kept, prompt = self.prompt[rows].unique_consecutive(return_inverse=True)
        for layer in self.layers:
            cast(_Layer, layer).keep_prompts(kept)
        new = torch.arange(self.stored, self.stored + len(rows), device=rows.device)
        self.places = torch.cat([self.places[rows], new[:, None]], dim=1)
        self.stored += len(rows)
        self._lay_out(self.mask[kept], prompt)

    def inputs(self) -> dict[str, Any]:
        """What the model takes beside the newest token of each row."""
        generated = self.places.shape[1]
        positions = self.mask.sum(1)[self.prompt, None] + generated - 1
        inputs = {"past_key_values": self, "position_ids": positions}
        if self.shared:
            return inputs | {"beams": self}
        return inputs | {"attention_mask": F.pad(self.mask[self.prompt], (0, generated), value=1)}

    def by_prompt(self, x: Tensor) -> Tensor:
        """Lay (rows, heads, n, d) out as (prompts, heads, width * n, d); places that are not taken hold anything."""
        table = x.index_select(0, self.rows.flatten()).view(*self.rows.shape, *x.shape[1:])
        return table.transpose(1, 2).flatten(2, 3)

    def by_row(self, table: Tensor) -> Tensor:
        """The inverse of `by_prompt`."""
        prompts, heads, _, d = table.shape
        x = table.view(prompts, heads, self.rows.shape[1], -1, d).transpose(1, 2)
        return x.flatten(0, 1).index_select(0, self.slots)

    def _lay_out(self, mask: Tensor, prompt: Tensor) -> None:
        self.mask, self.prompt = mask, prompt
        self.hidden = torch.where(mask == 0, float("-inf"), 0.0)[:, None, None]
        counts = prompt.bincount(minlength=len(mask))
        column = torch.arange(int(counts.max()), device=prompt.device)
        self.taken = column < counts[:, None]
        self.slots = self.taken.flatten().nonzero().flatten()
        self.rows = ((counts.cumsum(0) - counts)[:, None] + column).clamp(max=len(prompt) - 1)


class _Layer(DynamicLayer):
    """One layer: keys and values of the prompts at first; then of every generated token, (heads, tokens, d)."""

    keys: Tensor
    values: Tensor

    def __init__(self, cache: BeamCache) -> None:
        super().__init__()
        self.cache = cache
        self.prompts: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new tokens, (rows, heads, tokens, d); return what attention takes."""
        if self.prompts is None:
            return super().update(key_states, value_states, *args, **kwargs)
        keys = self._of_rows("keys", self.keys, key_states)
        values = self._of_rows("values", self.values, value_states)
        if self.cache.shared:
            return keys, values
        of_prompts = [x.index_select(0, self.cache.prompt) for x in self.prompts]
        return torch.cat([of_prompts[0], keys], dim=2), torch.cat([of_prompts[1], values], dim=2)

    def keep_prompts(self, kept: Tensor) -> None:
        """Forget all prompts but these."""
        if self.prompts is None:
            self.prompts = self.keys, self.values
            heads = self.keys.shape[1]
            self.keys, self.values = (x.new_empty(heads, self.cache.room, x.shape[3]) for x in self.prompts)
        if len(kept) < len(self.prompts[0]):
            self.prompts = self.prompts[0].index_select(0, kept), self.prompts[1].index_select(0, kept)

    def get_seq_length(self) -> int:
        """Positions before the newest token of each row."""
        if self.prompts is None:
            return super().get_seq_length()
        return self.prompts[0].shape[2] + self.cache.places.shape[1] - 1

    def _of_rows(self, name: str, stored: Tensor, new: Tensor) -> Tensor:
        """Store (rows, heads, 1, d) of the newest tokens; return (rows, heads, tokens, d) of all tokens of each row."""
        places, end = self.cache.places, self.cache.stored
        stored[:, end - len(places) : end] = new[:, :, 0].transpose(0, 1)
        # Into memory that all layers take in turns: new memory would cost more time than what is written there.
        key, shape = (name, stored.shape), (stored.shape[0], places.numel(), stored.shape[2])
        if key not in self.cache.scratch:
            self.cache.scratch[key] = torch.empty_like(stored).flatten()
        out = self.cache.scratch[key][: math.prod(shape)].view(shape)
        found = torch.index_select(stored, 1, places.flatten(), out=out)
        return found.view(len(stored), *places.shape, -1).transpose(0, 1)


@contextmanager
def shared_prompts(model: PreTrainedModel) -> Iterator[None]:
    """Let `model` attend to the parts of a `BeamCache`; inside, it takes no other cache."""
    attention = model.config._attn_implementation
    AttentionInterface.register(ATTENTION, _attention_to_prompt_and_row)
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(attention)


def _attention_to_prompt_and_row(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    beams: BeamCache,
    **settings: Any,
) -> tuple[Tensor, None]:
    """softmax(s q [K_prompt, K_row]^T) [V_prompt, V_row]: (rows, heads, 1, d) -> (rows, 1, heads, d).

    `key` and `value` are those of the generated tokens, (rows, key-value heads, tokens, d).
    """
    prompts = cast(_Layer, beams.layers[cast(int, module.layer_idx)]).prompts
    assert prompts is not None
    rows, groups, _, width = key.shape
    q = query.view(rows, groups, -1, width) * scaling  # heads with the same keys, together
    of_prompt = beams.by_row(beams.by_prompt(q) @ prompts[0].mT + beams.hidden.to(q.dtype))
    of_row = (q.transpose(0, 1) @ key.transpose(0, 1).mT).transpose(0, 1)
    weights = torch.cat([of_prompt, of_row], dim=-1).softmax(-1, dtype=torch.float32).to(q.dtype)
    to_prompt, to_row = weights.split([of_prompt.shape[-1], of_row.shape[-1]], dim=-1)
    output = beams.by_row(beams.by_prompt(to_prompt) @ prompts[1])
    output = output + (to_row.transpose(0, 1) @ value.transpose(0, 1)).transpose(0, 1)
    return output.reshape(rows, 1, -1, width), None
