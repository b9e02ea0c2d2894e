"""What the beam search refuses, and what it does at the edges; its results are held to the reference in parity."""

import pytest
import torch

from eval.beam import beam_search
from loda.errors import LodaError
from tests.library.models import tiny_gpt2

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
