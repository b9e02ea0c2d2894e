"""One decoding step of a whole model, dense and with what an approximation makes of its linear modules.

The rows are the hypotheses of one context: ten beams or one, each with 50 positions in the cache. All models are
optimised for inference, have LoDA+ on q and v, and random weights, whose values do not matter for the time. SVDs are
skipped: factors are random too.
"""

import argparse
import time
from typing import Any

import torch
from torch import nn
from transformers import GPT2LMHeadModel, PreTrainedModel

import loda
from benchmarks.timing import Row, Step, compare, take_turns
from benchmarks.workload import build_model
from eval.decode.cache import BeamCache, shared_prompts
from loda.adapters import LoDAPlus
from loda.approx import Columns, Dense, LowRank, Sparse
from loda.approx.columns import ColumnsLinear
from loda.interfaces import ApproxConfig
from loda.projection import projections

POSITIONS = 50
STEPS = 8


def run(options: argparse.Namespace) -> list[Row]:
    """Seconds of a step, and its share of the model's multiply-accumulates and bytes."""
    shape = options.model or "gpt2_medium"
    models: dict[str, tuple[ApproxConfig, Any, bool]] = {
        "dense": (Dense(), (), False),
        "low rank 0.4, QKV": (LowRank(rank=None, budget=0.4), (), False),
        "low rank 0.4, all linears": (LowRank(rank=None, budget=0.4), "all", False),
        "columns 0.4, all linears": (Columns(keep=0.4), "all", False),
        "entries 0.4, all linears": (Sparse(keep=0.4), "all", False),
        "int8": (Dense(), (), True),
        "int8, low rank 0.4, all linears": (LowRank(rank=None, budget=0.4), "all", True),
    }
    rows: list[Row] = []
    steps: dict[int, dict[str, Step]] = {1: {}, 10: {}}
    costs = {}
    for name, (approx, targets, int8) in models.items():
        model, costs[name] = _optimised(shape, options.device, approx, targets, int8)
        for beams, found in steps.items():
            found[name] = token_step(model, beams)
    for beams, found in steps.items():
        for row in compare(take_turns(found, options.repeats or 2), "dense"):
            rows.append({"beams": beams, **row, **costs[str(row["name"])]})
    return rows


def _optimised(
    shape: str, device: str, approx: ApproxConfig, targets: Any, int8: bool
) -> tuple[GPT2LMHeadModel, dict[str, float]]:
    model = build_model(shape, "meta")
    loda.inject(model, loda.LodaConfig(LoDAPlus(), approx, targets=targets))
    cost = loda.cost(model)
    model.to_empty(device=device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.02)
    for projection in projections(model).values():
        if isinstance(projection.base, ColumnsLinear):
            projection.base.index.copy_(torch.arange(len(projection.base.index)))
    model.tie_weights()
    fast = loda.optimize_for_inference(model.eval(), int8=int8)
    return fast, {"share": cost.model_share, "bytes": stored_bytes(fast)}


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, those that are shared once."""
    return sum({id(t): t.nbytes for t in (*model.parameters(), *model.buffers())}.values())


def token_step(model: PreTrainedModel, beams: int) -> Step:
    """Decode a token of every beam of one context; returns the seconds, a mean over `STEPS`."""
    prompt = torch.zeros(1, POSITIONS, dtype=torch.long, device=model.device)
    same = torch.arange(beams, device=model.device)

    @torch.inference_mode()
    def step() -> float:
        cache = BeamCache(torch.ones_like(prompt), STEPS + 1, beams, shared=True)
        model(prompt, past_key_values=cache)
        cache.select(torch.zeros_like(same))
        with shared_prompts(model):
            model(prompt[:, :1].expand(beams, 1), **cache.inputs())  # not timed: makes room for the rest
            started = time.perf_counter()
            for _ in range(STEPS):
                cache.select(same)
                model(prompt[:, :1].expand(beams, 1), **cache.inputs())
            return (time.perf_counter() - started) / STEPS

    return step
