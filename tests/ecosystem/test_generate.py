"""A cache changes nothing: however `generate` is called, an adapter gives the tokens of the call without a cache."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

import loda
from loda.adapters import Prefix
from loda.errors import LodaError
from tests.ecosystem.models import tiny
from tests.library.models import ADAPTERS, TOKENS, perturb

# A prefix meets the cache; the others stand beside a projection or behind a sub-layer, in two kinds of models.
PAIRS = [("gpt2", "prefix"), ("gpt2", "loda_plus"), ("llama", "loda_plus"), ("llama", "lin")]
with_adapters = pytest.mark.parametrize(("kind", "adapter"), PAIRS)

WAYS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "chunks": {"prefill_chunk_size": 5},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "assisted": {"assistant_model": "another model"},
    "beams": {"num_beams": 3},
    "static beams": {"num_beams": 3, "cache_implementation": "static"},
}


@cache
def adapted(kind: str, adapter: str) -> PreTrainedModel:
    return perturb(loda.inject(tiny(kind), loda.LodaConfig(ADAPTERS[adapter])), seed=3).eval()


def generate(model: PreTrainedModel, ids: Tensor | None = None, new: int = 5, **how: Any) -> Any:
    settings = {"do_sample": False, "max_new_tokens": new, "eos_token_id": None, "pad_token_id": 0}
    if ids is not None:
        settings = {"attention_mask": torch.ones_like(ids)} | settings
    return model.generate(ids, **settings | how)


@pytest.mark.parametrize(
    ("kind", "adapter", "way"),
    [(*pair, way) for pair in PAIRS for way in WAYS]
    + [("gpt2", name, "dynamic") for name in ADAPTERS if ("gpt2", name) not in PAIRS],
)
def test_every_cache_gives_the_tokens_of_none(kind, adapter, way):
    model, ids, how = adapted(kind, adapter), TOKENS[:1], WAYS[way]
    without = generate(model, ids, use_cache=False, num_beams=how.get("num_beams", 1))
    how = how | {"assistant_model": tiny(kind)} if "assistant_model" in how else how
    assert torch.equal(generate(model, ids, **how), without)


@pytest.mark.parametrize(
    "how", [{"use_cache": False}, WAYS["dynamic"], WAYS["static"]], ids=["none", "dynamic", "static"]
)
@with_adapters
def test_left_padding_changes_nothing(kind, adapter, how):
    model, pads = adapted(kind, adapter), 4
    mask = torch.ones_like(TOKENS)
    mask[1, :pads] = 0
    padded = generate(model, TOKENS * mask, attention_mask=mask, **how)
    assert torch.equal(padded[:1], generate(model, TOKENS[:1], use_cache=False))
    assert torch.equal(padded[1:, pads:], generate(model, TOKENS[1:, pads:], use_cache=False))


@pytest.mark.parametrize("of_fixed_size", [False, True], ids=["dynamic", "static"])
@with_adapters
def test_a_cache_is_handed_on(kind, adapter, of_fixed_size):
    model = adapted(kind, adapter)
    kept = StaticCache(model.config, max_cache_len=27) if of_fixed_size else DynamicCache(config=model.config)
    answer = generate(model, TOKENS, new=3, past_key_values=kept)
    turn = torch.cat([answer, TOKENS[:, :3]], dim=1)
    assert torch.equal(generate(model, turn, past_key_values=kept), generate(model, turn, use_cache=False))


@with_adapters
def test_embeddings_give_the_tokens_of_their_ids(kind, adapter):
    model = adapted(kind, adapter)
    found = generate(model, inputs_embeds=model.get_input_embeddings()(TOKENS), attention_mask=torch.ones_like(TOKENS))
    assert torch.equal(torch.cat([TOKENS, found], dim=1), generate(model, TOKENS, use_cache=False))


def test_a_cache_holds_tokens_and_no_prefix():
    # So a cache may be cropped by those who know nothing of the prefix.
    model = adapted("gpt2", "prefix")
    whole = model(TOKENS)
    assert whole.past_key_values.get_seq_length() == TOKENS.shape[1]
    whole.past_key_values.crop(-4)
    again = model(TOKENS[:, -4:], past_key_values=whole.past_key_values, return_dict=False)
    torch.testing.assert_close(again[0], whole.logits[:, -4:], rtol=1e-4, atol=1e-4)
    assert again[1] is whole.past_key_values


def test_a_static_cache_without_room_for_the_prefix_is_refused():
    model = loda.inject(tiny("gpt2"), loda.LodaConfig(Prefix(length=3)))  # 32 positions
    with pytest.raises(LodaError, match="a prefix of 3 and 30 tokens exceed the model's 32 positions"):
        generate(model, TOKENS, new=19, cache_implementation="static")
