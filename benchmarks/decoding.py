"""Beam search over E2E's test contexts: the reference recipe, Hugging Face's generate, this project.

    python -m benchmarks.decoding                                    GPT2-small's shape, a few contexts
    python -m benchmarks.decoding --model toy --adapter FOLDER --contexts 630
    python -m benchmarks.decoding --device cuda --model gpt2_medium --contexts 630

    reference      LoRA's gpt2_beam.py: every reference's row on its own, ten copies of a prompt padded to 512,
                   attention written out, all 64 steps; timed for `--rows` rows. E2E has 4,693 rows for 630 contexts,
                   so its seconds per context are those of a row times 7.449: extrapolated.
    hugging_face   transformers' generate with ten beams on the same contexts, in batches of the same size, and with the
                   same settings (its rules differ, so do some texts)
    loda           this project

Random weights never end a text, so every variant takes all 64 steps: the least favourable case for this project, which
stops early. `--model toy --adapter FOLDER` decodes with a trained adapter of the toy base instead, whose texts end.
The tokens of `reference` and `loda` are compared.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import loda
from benchmarks.report import Row, begin, finish, parser
from benchmarks.timing import timed
from benchmarks.workload import MAX_LENGTH, SHAPES, prompts, random_gpt2, toy_base
from eval.decode.beam import Hypothesis, beam_search
from loda.adapters import LoDAPlus

STEPS = 64
PENALTY = 0.9
NGRAM = 4
ROWS_PER_CONTEXT = 4693 / 630


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    options = parser("decoding", "Beam search against the reference recipe and Hugging Face's generate.")
    options.add_argument("--model", default="gpt2_small", choices=[*SHAPES, "toy"])
    options.add_argument("--adapter", type=Path, help="with --model toy: a folder that loda.save_pretrained wrote")
    options.add_argument("--contexts", type=int, default=8)
    options.add_argument("--rows", type=int, default=1, help="rows that the reference recipe is timed for; 0: none")
    options.add_argument("--beams", type=int, default=10)
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--optimize", action="store_true", help="also after loda.optimize_for_inference")
    arguments = options.parse_args(argv)
    started = begin(arguments)
    model, end = load(arguments.model, arguments.adapter, arguments.device)
    given, source = prompts(arguments.contexts, arguments.model)
    found: dict[str, list[Hypothesis]] = {}
    ours = partial(search, model, given, end, arguments.beams, arguments.batch_size)
    theirs = partial(generate, model, given, end, arguments.beams, arguments.batch_size)
    details: dict[str, Any] = {"contexts": source, "hugging_face": [], "loda": []}
    for _ in range(arguments.repeats):
        details["hugging_face"].append(timed(theirs)[0])
        seconds, found["loda"] = timed(ours)
        details["loda"].append(seconds)
    per_context = {name: median(details[name]) / len(given) for name in ("hugging_face", "loda")}
    details["mean tokens"] = sum(len(h.tokens) for h in found["loda"]) / len(given)
    if arguments.rows:
        model.set_attn_implementation("eager")
        texts = [timed(partial(reference, model, row, end, arguments.beams)) for row in given[: arguments.rows]]
        details["reference"] = [seconds for seconds, _ in texts]
        per_context["reference"] = ROWS_PER_CONTEXT * sum(details["reference"]) / len(texts)
        details["equal to the reference"] = sum(
            tokens == one.tokens for (_, tokens), one in zip(texts, found["loda"], strict=False)
        )
        model.set_attn_implementation("sdpa")
    if arguments.optimize:
        loda.optimize_for_inference(model)
        details["optimized"] = []
        for _ in range(arguments.repeats):
            seconds, found["optimized"] = timed(ours)
            details["optimized"].append(seconds)
        per_context["optimized"] = median(details["optimized"]) / len(given)
        details["equal after optimisation"] = sum(
            a.tokens == b.tokens for a, b in zip(found["loda"], found["optimized"], strict=True)
        )
    ordered = sorted(per_context, key=per_context.__getitem__, reverse=True)
    lines = [_line(name, per_context, details, arguments.rows) for name in ordered]
    finish("decoding", arguments, started, lines, details)


def _line(name: str, per_context: dict[str, float], details: dict[str, Any], rows: int) -> Row:
    ratio = None if name == "loda" else per_context[name] / per_context["loda"]
    notes = {
        "loda": f"per context; {details['mean tokens']:.1f} tokens on average",
        "reference": f"per context, extrapolated from {rows} row(s) x 7.449; "
        f"{details.get('equal to the reference')} of {rows} texts equal",
        "optimized": f"{details.get('equal after optimisation')} texts equal to those before",
    }
    return Row(name, per_context[name], ratio, "the time of loda", notes.get(name, "per context"))


def load(model: str, adapter: Path | None, device: str) -> tuple[PreTrainedModel, int]:
    """A base with adapters, and its end-of-text token."""
    base, end = toy_base() if model == "toy" else (random_gpt2(model, "cpu"), 50256)
    if adapter is not None:
        return loda.from_pretrained(base, adapter).eval().to(device), end
    adapted = loda.inject(base, loda.LodaConfig(LoDAPlus()))
    for name, parameter in loda.trainable_parameters(adapted).items():
        if name.endswith("B"):
            torch.nn.init.normal_(parameter, std=0.02)
    return adapted.eval().to(device), end


def search(
    model: PreTrainedModel, given: Sequence[list[int]], end: int, beams: int, batch: int, steps: int = STEPS
) -> list[Hypothesis]:
    """This project's search."""
    return beam_search(
        model,
        given,
        num_beams=beams,
        max_new_tokens=steps,
        length_penalty=PENALTY,
        no_repeat_ngram_size=NGRAM,
        eos_token_ids=[end],
        batch_size=batch,
    )


@torch.inference_mode()
def generate(model: PreTrainedModel, given: Sequence[list[int]], end: int, beams: int, batch: int) -> list[Tensor]:
    """Hugging Face's search on left-padded batches of contexts of like length."""
    ordered, texts = sorted(given, key=len), []
    for start in range(0, len(ordered), batch):
        rows = ordered[start : start + batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[end] * (longest - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
        texts.append(
            model.generate(  # type: ignore[operator]
                ids,
                attention_mask=mask,
                num_beams=beams,
                max_new_tokens=STEPS,
                length_penalty=PENALTY,
                no_repeat_ngram_size=NGRAM,
                eos_token_id=end,
                pad_token_id=end,
                do_sample=False,
            )
        )
    return texts


@torch.inference_mode()
def reference(model: PreTrainedModel, prompt: list[int], end: int, beams: int) -> list[int]:
    """Section 7 of the protocol, for one row: its text up to and with the end token."""
    cache, given = DynamicCache(config=model.config), len(prompt)
    padded = min(MAX_LENGTH, model.config.max_position_embeddings)  # the toy base has fewer positions
    inputs = torch.tensor([prompt + [0] * (padded - given)] * beams, device=model.device)
    mask = (torch.arange(padded, device=model.device) < given).long().expand(beams, -1)
    positions = torch.arange(padded, device=model.device).expand(beams, -1)
    scores, history = (
        torch.zeros(beams, device=model.device),
        torch.empty(beams, 0, dtype=torch.long, device=model.device),
    )
    best: list[int] = []
    best_value = float("-inf")
    for step in range(STEPS):
        logits = model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits
        last = logits[:, given - 1 if step == 0 else 0].float()
        for row, tokens in enumerate(history.tolist()):
            last[row, _banned(tokens)] = float("-inf")
        log_probs = last.softmax(-1).log()
        candidates = log_probs[0] if step == 0 else (scores[:, None] + log_probs).flatten()
        scores, index = candidates.topk(beams)
        parents, tokens = index // log_probs.shape[-1], index % log_probs.shape[-1]
        history = torch.cat([history[parents], tokens[:, None]], dim=1)
        cache.batch_select_indices(parents)
        ended = torch.ones_like(tokens, dtype=torch.bool) if step == STEPS - 1 else tokens == end
        for row in ended.nonzero().flatten().tolist():
            value = float(scores[row]) / (step + 1) ** PENALTY
            if not best or value > best_value:
                best, best_value = history[row].tolist(), value
        scores = scores.masked_fill(tokens == end, float("-inf"))
        inputs, positions = tokens[:, None], torch.full((beams, 1), given + step, device=model.device)
        mask = torch.cat([mask, mask.new_ones(beams, 1)], dim=1)
    return best


def _banned(history: list[int]) -> list[int]:
    """The tokens that followed an earlier occurrence of the last three."""
    latest = history[len(history) - NGRAM + 1 :]
    starts = range(len(history) - NGRAM + 1)
    return [history[i + NGRAM - 1] for i in starts if history[i : i + NGRAM - 1] == latest]


if __name__ == "__main__":
    main()
