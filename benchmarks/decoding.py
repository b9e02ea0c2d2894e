"""Beam search over contexts of E2E's lengths: the reference recipe, Hugging Face's generate, this project.

    reference      LoRA's gpt2_beam.py: a search for every reference, ten copies of a prompt padded to 512, attention
                   written out, all 64 steps. One search is timed and extrapolated: E2E has 4,693 references for 630
                   contexts, so a context takes 7.449 searches.
    generate       transformers' generate on the same contexts, beams, batches and settings (its rules differ, so do
                   some texts)
    loda           this project

Random weights hardly ever end a text, so every variant takes nearly all 64 steps: the least favourable case for this
project, which stops early.
"""

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

import loda
from benchmarks.timing import Row, compare, take_turns
from benchmarks.workload import build_model, prompts
from eval.decode.beam import Hypothesis, Rules, beam_search
from loda.adapters import LoDAPlus

BEAMS, STEPS, PENALTY, NGRAM = 10, 64, 0.9, 4
BATCH_SIZE = 16
PADDED_LENGTH = 512
ROWS_PER_CONTEXT = 4693 / 630


def run(options: argparse.Namespace) -> list[Row]:
    """Seconds of a context; the first text of the reference is this project's."""
    model = adapted_model(options.model or "gpt2_small", options.device)
    written_out = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    written_out.set_attn_implementation("eager")
    given = prompts(options.contexts)
    rules = Rules(BEAMS, STEPS, PENALTY, NGRAM, min_length=0, eos_token_ids=(model.config.eos_token_id,))
    steps = {
        "reference": lambda: reference(written_out, given[0]),
        "generate": lambda: generate(model, given, rules, BATCH_SIZE),
        "loda": lambda: search(model, given),
    }
    timings = take_turns(steps, options.repeats or 1, warm_up=0)
    texts = timings["loda"].result
    equal = timings["reference"].result == texts[0].tokens
    timings["reference"].seconds = [s * ROWS_PER_CONTEXT * len(given) for s in timings["reference"].seconds]
    notes = {
        "reference": f"extrapolated; the text is {'equal' if equal else 'ANOTHER'}",
        "loda": f"{sum(len(text.tokens) for text in texts) / len(texts):.1f} tokens on average",
    }
    return [row | {"note": notes.get(row["name"], "")} for row in compare(timings, "loda", units=len(given))]


def adapted_model(shape: str, device: str) -> PreTrainedModel:
    """A base with a random LoDA+."""
    model = loda.inject(build_model(shape, device), loda.LodaConfig(LoDAPlus()))
    for name, parameter in loda.trainable_parameters(model).items():
        if name.endswith("B"):  # B starts at zero
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()  # type: ignore[no-any-return]


def search(model: PreTrainedModel, given: Sequence[list[int]], steps: int = STEPS) -> list[Hypothesis]:
    return beam_search(
        model,
        given,
        num_beams=BEAMS,
        max_new_tokens=steps,
        length_penalty=PENALTY,
        no_repeat_ngram_size=NGRAM,
        eos_token_ids=[model.config.eos_token_id],
        batch_size=BATCH_SIZE,
    )


@torch.inference_mode()
def generate(model: Any, given: Sequence[list[int]], rules: Rules, batch_size: int) -> None:
    """Hugging Face's search on left-padded batches of contexts of like length."""
    ordered, ends = sorted(given, key=len), list(rules.eos_token_ids)
    for start in range(0, len(ordered), batch_size):
        rows = [torch.tensor(row, device=model.device) for row in ordered[start : start + batch_size]]
        model.generate(
            pad_sequence(rows, batch_first=True, padding_value=ends[0], padding_side="left"),
            attention_mask=pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left"),
            num_beams=rules.num_beams,
            max_new_tokens=rules.max_new_tokens,
            length_penalty=rules.length_penalty,
            no_repeat_ngram_size=rules.no_repeat_ngram_size,
            eos_token_id=ends,
            pad_token_id=ends[0],
            do_sample=False,
        )


@torch.inference_mode()
def reference(model: Any, prompt: list[int]) -> list[int]:
    """The reference's search for one row: its text up to and with the end token."""
    device, end, given = model.device, model.config.eos_token_id, len(prompt)
    cache = DynamicCache(config=model.config)
    inputs = torch.tensor([prompt + [0] * (PADDED_LENGTH - given)] * BEAMS, device=device)
    positions = torch.arange(PADDED_LENGTH, device=device).expand(BEAMS, -1)
    mask = (positions < given).long()
    scores, history = torch.zeros(BEAMS, device=device), torch.empty(BEAMS, 0, dtype=torch.long, device=device)
    best: tuple[float, list[int]] = (float("-inf"), [])
    for step in range(STEPS):
        logits = model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits
        log_probs = _without_repeats(logits[:, given - 1 if step == 0 else 0].float(), history).softmax(-1).log()
        candidates = log_probs[0] if step == 0 else (scores[:, None] + log_probs).flatten()
        scores, index = candidates.topk(BEAMS)
        parents, tokens = index // log_probs.shape[-1], index % log_probs.shape[-1]
        history = torch.cat([history[parents], tokens[:, None]], dim=1)
        cache.batch_select_indices(parents)
        ended = torch.ones_like(tokens, dtype=torch.bool) if step == STEPS - 1 else tokens == end
        for row in ended.nonzero().flatten().tolist():
            value = float(scores[row]) / (step + 1) ** PENALTY
            if not best[1] or value > best[0]:
                best = value, history[row].tolist()
        scores = scores.masked_fill(tokens == end, float("-inf"))
        inputs, positions = tokens[:, None], torch.full((BEAMS, 1), given + step, device=device)
        mask = torch.cat([mask, mask.new_ones(BEAMS, 1)], dim=1)
    return best[1]


def _without_repeats(logits: Tensor, history: Tensor) -> Tensor:
    """Ban the tokens that followed an earlier occurrence of the last three."""
    for row, tokens in enumerate(history.tolist()):
        starts = range(len(tokens) - NGRAM + 1)
        latest = tokens[len(tokens) - NGRAM + 1 :]
        logits[row, [tokens[i + NGRAM - 1] for i in starts if tokens[i : i + NGRAM - 1] == latest]] = float("-inf")
    return logits
