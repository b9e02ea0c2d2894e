"""Beam search against gpt2_beam.py at batch size 1: token-identical in all its runs, for any batch size."""

import json
from collections.abc import Sequence

import pytest

from eval import beam
from eval.beam import Hypothesis, beam_search
from tests.parity.reference import DATA, lora_tensors, tiny_gpt2, with_lora

GOLDENS = json.loads((DATA / "beam_goldens.json").read_text())
TRACE = json.loads((DATA / "beam_trace.json").read_text())
LENGTH = GOLDENS["eval_len"]


def search(model, prompts: Sequence[Sequence[int]], settings: dict, batch_size: int, **changes) -> list[Hypothesis]:
    arguments = {
        "num_beams": settings["beam"],
        "max_new_tokens": LENGTH,
        "length_penalty": settings["length_penalty"],
        "no_repeat_ngram_size": settings["no_repeat_ngram_size"],
        "min_length": settings["min_length"],
        "eos_token_ids": settings["eos_token_id"],
    }
    return beam_search(model, prompts, batch_size=batch_size, **arguments | changes)


def padded(hypothesis: Hypothesis) -> list[int]:
    return [*hypothesis.tokens, *[0] * (LENGTH - len(hypothesis.tokens))]


@pytest.mark.parametrize("name", GOLDENS["runs"])
def test_token_identical_to_the_reference(name):
    run = GOLDENS["runs"][name]
    model = tiny_gpt2()
    if run.get("model_note"):
        with_lora(model, lora_tensors())
    found = search(model, GOLDENS["prompts"], run["settings"], batch_size=16)
    assert [padded(h) for h in found] == run["outputs"]
    assert [h.score for h in found] == pytest.approx(run["best_scores"], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_the_batch_size_changes_nothing(batch_size):
    run = GOLDENS["runs"]["b10_lp0.8_ng4_bs1"]
    found = search(tiny_gpt2(), GOLDENS["prompts"][:12], run["settings"], batch_size)
    assert [padded(h) for h in found] == run["outputs"][:12]


def test_the_early_exit_changes_nothing(monkeypatch):
    monkeypatch.setattr(beam, "_decided", lambda scores, best, rules: (scores == beam.DEAD).all(1))
    run = GOLDENS["runs"]["b10_lp0.8_ng4_bs1"]
    found = search(tiny_gpt2(), GOLDENS["prompts"][:16], run["settings"], batch_size=16)
    assert [padded(h) for h in found] == run["outputs"][:16]


@pytest.mark.parametrize("prompt", [0, 1])
def test_parents_tokens_and_scores_of_every_step(prompt, monkeypatch):
    steps = []
    select = beam._select

    def record(*arguments):
        steps.append(select(*arguments))
        return steps[-1]

    monkeypatch.setattr(beam, "_select", record)
    settings = GOLDENS["runs"][TRACE["run"]]["settings"]
    search(tiny_gpt2(), [GOLDENS["prompts"][prompt]], settings, batch_size=1)
    trace = TRACE["steps"][str(prompt)]
    # The reference always takes all its steps; the exact early exit may leave out some at the end.
    assert 0 < len(steps) <= len(trace)
    for (scores, parents, tokens), expected in zip(steps, trace, strict=False):
        live = [score is not None for score in expected["score"]]
        for found, key in ((parents, "parent"), (tokens, "token")):
            assert [x for x, keep in zip(found[0].tolist(), live, strict=True) if keep] == [
                x for x, keep in zip(expected[key], live, strict=True) if keep
            ]
        found_scores = [x for x, keep in zip(scores[0].tolist(), live, strict=True) if keep]
        assert found_scores == pytest.approx([x for x in expected["score"] if x is not None], abs=1e-4)
