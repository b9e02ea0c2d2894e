"""What the beam search refuses, and what it does at the edges; its results are held to the reference in parity."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.beam import beam_search
from eval.decode.beam import Rules, _can_improve
from loda.errors import LodaError
from tests.library.models import VOCABULARY, tiny_gpt2

SETTINGS = {
    "num_beams": 3,
    "max_new_tokens": 5,
    "length_penalty": 0.8,
    "no_repeat_ngram_size": 0,
    "eos_token_ids": [0],
    "batch_size": 2,
}


def search(model, prompts, **changes):
    return beam_search(model, prompts, **SETTINGS | changes)


@pytest.mark.parametrize(
    ("prompts", "changes", "words"),
    [
        ([[1], []], {}, ["prompt 1", "empty"]),
        ([[1]], {"num_beams": 0}, ["num_beams=0", "at least 1"]),
        ([[1]], {"num_beams": 10_000}, ["num_beams=10000", "vocabulary"]),
        ([[1]], {"batch_size": 0}, ["batch_size=0", "at least 1"]),
        ([[1] * 28], {}, ["28 tokens", "32 positions"]),
        ([[1]], {"min_length": -1}, ["min_length=-1"]),
        ([[1], [VOCABULARY]], {}, ["prompt 1 holds 64", "64 tokens"]),
        ([1, 2], {}, ["prompt 0 is 1", "list of token ids"]),
        (["a text"], {}, ["prompt 0 is 'a text'", "list of token ids"]),
        ([[1.0]], {}, ["prompt 0", "list of token ids"]),
        ([[1]], {"eos_token_ids": -1}, ["eos_token_ids holds -1", "64 tokens"]),
        ([[1]], {"eos_token_ids": [3, VOCABULARY]}, ["eos_token_ids holds 64"]),
        ([[1]], {"eos_token_ids": "</s>"}, ["eos_token_ids is '</s>'"]),
        ([[1]], {"eos_token_ids": True}, ["eos_token_ids"]),
        ([[1]], {"length_penalty": float("nan")}, ["length_penalty=nan", "closer to 0"]),
        ([[1]], {"length_penalty": -1000.0}, ["length_penalty=-1000.0", "closer to 0"]),
    ],
)
def test_an_impossible_search_is_refused_in_one_sentence(prompts, changes, words):
    with pytest.raises(LodaError) as error:
        search(tiny_gpt2().eval(), prompts, **changes)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(LodaError, match=r"model\.eval"):
        search(tiny_gpt2().train(), [[1]])


def test_a_diverged_model_is_refused():
    model = tiny_gpt2().eval()
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(LodaError, match="not numbers"):
        search(model, [[1]])


def test_without_an_end_token_every_hypothesis_has_full_length():
    found = search(tiny_gpt2().eval(), [[1], [2, 3]], eos_token_ids=[])
    assert [len(hypothesis.tokens) for hypothesis in found] == [5, 5]


def test_the_last_position_of_the_model_can_be_used():
    (found,) = search(tiny_gpt2().eval(), [[1] * 27], eos_token_ids=[])
    assert len(found.tokens) == 5


def test_no_prompts_give_no_hypotheses():
    assert search(tiny_gpt2().eval(), []) == []


@pytest.mark.parametrize(
    "prompts",
    [
        torch.tensor([[5, 6, 7], [8, 9, 10]]),
        [torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10], dtype=torch.int32)],
        (np.array([5, 6, 7]), range(8, 11)),
        [[torch.tensor(5), 6, 7], (8, 9, 10)],
    ],
    ids=["a tensor", "tensors", "an array and a range", "tensors of one id"],
)
def test_prompts_are_any_sequence_of_ids(prompts):
    model = tiny_gpt2()
    assert search(model, prompts) == search(model, [[5, 6, 7], [8, 9, 10]])


@pytest.mark.parametrize(
    ("given", "meant"),
    [(62, [62]), (None, []), ((62, 1), [62, 1]), (torch.tensor(62), [62]), (torch.tensor([62, 1]), [62, 1])],
)
def test_end_tokens_are_given_as_to_generate(given, meant):
    model = tiny_gpt2()
    found = search(model, [[1], [2, 3]], eos_token_ids=given)
    assert found == search(model, [[1], [2, 3]], eos_token_ids=meant)
    assert {len(one.tokens) for one in found} == ({1} if meant else {5})


def test_a_hypothesis_whose_every_continuation_is_banned_ends_there_and_says_so():
    """Four tokens that may occur once each, and no end token before the sixth."""
    rules = {"no_repeat_ngram_size": 1, "min_length": 6, "max_new_tokens": 8, "eos_token_ids": range(4, VOCABULARY)}
    model = tiny_gpt2()
    with pytest.warns(UserWarning, match=r"no_repeat_ngram_size=1 and min_length=6 ban every token after 4"):
        found = search(model, [[1], [2, 3]], **rules)
    assert [sorted(one.tokens) for one in found] == [[0, 1, 2, 3]] * 2
    assert all(math.isfinite(one.score) for one in found)


@pytest.mark.filterwarnings("ignore:no_repeat_ngram_size")
@settings(max_examples=40, deadline=None)
@given(
    num_beams=st.integers(1, VOCABULARY),
    max_new_tokens=st.integers(1, 6),
    length_penalty=st.floats(-38, 38),  # 6 ** 38 is below 1e30
    no_repeat_ngram_size=st.integers(0, 3),
    min_length=st.integers(0, 7),
    eos_token_ids=st.sampled_from([[], [0], range(2, VOCABULARY), range(VOCABULARY)]),
)
def test_the_scores_of_every_accepted_setting_are_finite(**rules):
    found = search(MODEL, [[1], [2, 3, 4]], **rules)
    assert len(found) == 2
    assert all(math.isfinite(one.score) for one in found)


def test_a_negative_penalty_favours_short_texts_so_no_bound_drops_a_long_one():
    # -1 over one token is -1; over eight it is -8, below the best, but the text may end before.
    rules = Rules(
        num_beams=1, max_new_tokens=8, length_penalty=-1, no_repeat_ngram_size=0, min_length=0, eos_token_ids=()
    )
    assert _can_improve(torch.tensor([-1.0]), torch.tensor([-5.0]), rules).all()


def test_a_class_that_transformers_cannot_switch_is_searched_all_the_same():
    model = tiny_gpt2()
    expected = search(model, [[1], [2, 3]])
    own = {"__module__": "__main__", "_can_set_attn_implementation_cached_value": None}  # as written in a notebook
    model.__class__ = type("Own", (type(model),), own)
    assert search(model, [[1], [2, 3]]) == expected


MODEL = tiny_gpt2()
