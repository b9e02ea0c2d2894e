"""Beam search against gpt2_beam.py at batch size 1: token-identical in all its runs, whatever stands beside a prompt.

The reference pads prompts on the right, this search on the left and only to the longest of the batch.
"""

import json
from collections.abc import Sequence

import pytest
from torch.nn import functional as F

from eval.decode import beam
from eval.decode.beam import Hypothesis, beam_search
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


def check(name: str, count: int, batch_size: int) -> None:
    """The first `count` prompts of a run give its tokens, and its scores to 1e-4."""
    run = GOLDENS["runs"][name]
    model = tiny_gpt2()
    if run.get("model_note"):
        with_lora(model, lora_tensors())
    found = search(model, GOLDENS["prompts"][:count], run["settings"], batch_size)
    assert [padded(h) for h in found] == run["outputs"][:count]
    assert [h.score for h in found] == pytest.approx(run["best_scores"][:count], abs=1e-4)


def is_live(scores, best_values, rules):
    return scores.isfinite()


def test_every_run_and_prompt_of_the_reference_is_there():
    assert len(GOLDENS["runs"]) == 10
    assert len(GOLDENS["prompts"]) == 48
    # so that a batch of several prompts has padding
    assert len({len(prompt) for prompt in GOLDENS["prompts"]}) > 10


@pytest.mark.parametrize(("batch_size", "count"), [(48, 48), (7, 24), (1, 8)])
@pytest.mark.parametrize("name", GOLDENS["runs"])
def test_token_identical_to_the_reference(name, batch_size, count):
    check(name, count, batch_size)


@pytest.mark.parametrize("name", GOLDENS["runs"])
def test_the_early_exit_changes_nothing(name, monkeypatch):
    monkeypatch.setattr(beam, "_can_improve", is_live)
    check(name, count=8, batch_size=8)


def test_the_width_of_the_padding_changes_nothing(monkeypatch):
    pad = beam._pad_left
    monkeypatch.setattr(beam, "_pad_left", lambda *given: tuple(F.pad(tensor, (32, 0)) for tensor in pad(*given)))
    check("b10_lp0.8_ng4_bs1", count=16, batch_size=8)


@pytest.mark.parametrize("prompt", [0, 1])  # the trace's third prompt is not among those of the reference's file
def test_parents_tokens_and_scores_of_every_step(prompt, monkeypatch):
    steps = []
    select = beam._select

    def record(*arguments):
        steps.append(select(*arguments))
        return steps[-1]

    monkeypatch.setattr(beam, "_select", record)
    monkeypatch.setattr(beam, "_can_improve", is_live)  # the reference always takes all steps
    settings = GOLDENS["runs"][TRACE["run"]]["settings"]
    search(tiny_gpt2(), [GOLDENS["prompts"][prompt]], settings, batch_size=1)
    trace = TRACE["steps"][str(prompt)]
    assert len(trace) == LENGTH
    assert None not in trace[0]["score"]
    assert all(set(step["score"]) == {None} for step in trace[len(steps) :])  # nothing is left to extend
    # A finished hypothesis keeps its row in the reference, and loses it here.
    alive = [0]
    for (parents, tokens, scores), expected in zip(steps, trace, strict=False):
        live = [i for i, score in enumerate(expected["score"]) if score is not None]
        assert [alive[parents[i]] for i in live] == [expected["parent"][i] for i in live]
        assert [tokens[i].item() for i in live] == [expected["token"][i] for i in live]
        assert [scores[i].item() for i in live] == pytest.approx([expected["score"][i] for i in live], abs=1e-4)
        alive = [i for i in live if expected["token"][i] not in settings["eos_token_id"]]
