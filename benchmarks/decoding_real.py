"""Beam search with a trained adapter on a real base, whose texts end early: SmolLM2-135M on contexts of E2E's test set.

    generate     transformers' generate on the same contexts, beams, batches and settings (its rules differ, so do some
                 texts)
    loda         this project as it decodes by default
    bf16         with decode.bf16=true, where --precision is bf16
    optimized    with decode.optimized=true
    int8         with decode.int8=true beside it, on the CPU alone

LoDA+ is trained for a minute first, and kept under `--outputs`. The floor of a search is the time of its products
alone: for every step, that of all linear modules of the base on as many rows as were still alive.
"""

import argparse
import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

import loda
from benchmarks.decoding import generate
from benchmarks.timing import Row, Step, compare, take_turns
from eval.decode.beam import Hypothesis, Rules, search
from eval.decode.stage import rules_of
from eval.pipeline import check
from loda.architectures import is_linear, shape_of
from loda.lab.base.files import find_config
from loda.lab.config import compose
from loda.lab.run import Run
from loda.lab.training.train import train

SETTINGS = ["model=smollm2_135m", "dataset=e2e", "decode=beam10", "adapter=loda_plus", "optim.lr=4e-3"]
ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 1024)
BUDGET = ["trainer.max_steps=40", "optim.warmup_steps=10", "trainer.valid_examples=1"]


def is_at_hand() -> bool:
    """Whether the base is on this machine."""
    return find_config(compose(SETTINGS).model) is not None


def run(options: argparse.Namespace) -> list[Row]:
    """Seconds of a context, for `--contexts` in one batch and for four times as many."""
    run = Run(compose([*SETTINGS, *BUDGET, f"trainer.device={options.device}", f"outputs={options.outputs}"]))
    inputs = check(run)
    train(run, inputs.base, inputs.examples, inputs.validation)
    speeds = product_seconds(inputs.base.model.to(options.device))
    model = loda.from_pretrained(inputs.base.model, run.checkpoint(run.checkpoints[-1]).path)
    models = {"loda": model.to(options.device).eval()}
    models["optimized"] = loda.optimize_for_inference(copy.deepcopy(model))
    if options.device == "cpu":
        models["int8"] = loda.optimize_for_inference(copy.deepcopy(model), int8=True)
    rules = rules_of(run.experiment.decode, inputs.stop)
    rows: list[Row] = []
    for count in (options.contexts, 4 * options.contexts):
        given = inputs.prompts[:: max(1, len(inputs.prompts) // count)][:count]
        steps: dict[str, Step] = {"generate": partial(generate, model, given, rules, batch_size=count)}
        steps |= {name: partial(_watched, each, given, rules) for name, each in models.items()}
        if options.precision == "bf16":
            steps["bf16"] = partial(_watched, model, given, rules, bf16=True)
        timings = take_turns(steps, options.repeats or 1, warm_up=0)
        texts = {name: timing.result[0] for name, timing in timings.items() if name != "generate"}
        floor = sum(np.interp(timings["loda"].result[1], ROWS, speeds)) / count
        for row in compare(timings, "loda", units=count):
            if row["name"] in texts:
                row["changed"] = sum(
                    a.tokens != b.tokens for a, b in zip(texts[row["name"]], texts["loda"], strict=True)
                )
                row["tokens"] = sum(len(text.tokens) for text in texts[row["name"]]) / count
            if row["name"] == "loda":
                row["floor's share"] = floor / row["seconds"]
            rows.append({"contexts": count, **row})
    return rows


def _watched(
    model: PreTrainedModel, given: Sequence[list[int]], rules: Rules, bf16: bool = False
) -> tuple[list[Hypothesis], list[int]]:
    """The best hypotheses, and how many rows each forward pass had: tokens of the prompts at first, then live beams."""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, inputs: rows.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            return search(model, given, rules), rows
    finally:
        handle.remove()


@torch.inference_mode()
def product_seconds(model: PreTrainedModel) -> list[float]:
    """Seconds of all linear modules of `model` on each number of `ROWS`."""
    modules = [(module, shape_of(module)[0]) for module in model.modules() if is_linear(module)]

    def step(rows: int) -> None:
        inputs = {width: torch.randn(rows, width, device=model.device) for width in {width for _, width in modules}}
        for module, width in modules:
            module(inputs[width])

    timings = take_turns({rows: partial(step, rows) for rows in ROWS}, repeats=3)
    return [timings[rows].median for rows in ROWS]
