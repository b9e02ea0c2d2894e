"""Beam search with a trained adapter on a real base, whose texts end early: SmolLM2-135M on contexts of E2E's test set.

    generate     transformers' generate on the same contexts, beams, batches and settings (its rules differ, so do some
                 texts)
    loda         this project as it decodes by default
    bf16         with decode.bf16=true, where --precision is bf16
    optimized    with decode.optimized=true
    int8         with decode.int8=true beside it, on the CPU alone

The first two decode four times as many contexts too. LoDA+ is trained for 30 updates first, and kept under `--outputs`.
The floor of a search is the time of its products alone: for every step, that of all linear modules of the base on as
many rows as were still alive.
"""

import argparse
import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

import loda
from benchmarks.decoding import generate
from benchmarks.timing import Row, Step, compare, take_turns
from eval.decode.beam import Hypothesis, Rules, search
from eval.decode.stage import round_to_bf16, rules_of
from eval.pipeline import check
from loda.architectures import is_linear, shape_of
from loda.lab.base.files import find_config
from loda.lab.config import compose
from loda.lab.run import Run
from loda.lab.training.train import train

SETTINGS = ["model=smollm2_135m", "dataset=e2e", "decode=beam10", "adapter=loda_plus", "optim.lr=4e-3"]
BUDGET = ["trainer.max_steps=30", "optim.warmup_steps=10", "trainer.valid_examples=1"]
ROWS = (1, 16, 64, 256, 2048)


def is_at_hand() -> bool:
    """Whether the base is on this machine."""
    return find_config(compose(SETTINGS).model) is not None


def run(options: argparse.Namespace) -> list[Row]:
    """Seconds of a context, in one batch."""
    run = Run(compose([*SETTINGS, *BUDGET, f"trainer.device={options.device}", f"outputs={options.outputs}"]))
    inputs = check(run)
    train(run, inputs.base, inputs.examples, inputs.validation)
    body, head = product_seconds(inputs.base.model.to(options.device))
    base = copy.deepcopy(inputs.base.model)  # which all of this process share
    model = loda.from_pretrained(base, run.checkpoint(run.checkpoints[-1]).path)
    models = {"loda": model.to(options.device).eval()}
    models["optimized"] = loda.optimize_for_inference(copy.deepcopy(model))
    if options.device == "cpu":
        models["int8"] = loda.optimize_for_inference(copy.deepcopy(model), int8=True)
    if options.precision == "bf16":
        models["bf16"] = copy.deepcopy(model)
        round_to_bf16(models["bf16"])
    rules = rules_of(run.experiment.decode, inputs.stop)
    rows: list[Row] = []
    for count, names in ((options.contexts, list(models)), (4 * options.contexts, ["loda"])):
        given = inputs.prompts[:: max(1, len(inputs.prompts) // count)][:count]
        steps: dict[str, Step] = {"generate": partial(generate, model, given, rules, batch_size=count)}
        steps |= {name: partial(_watched, models[name], given, rules) for name in names}
        timings = take_turns(steps, options.repeats or 1, warm_up=0)
        texts = {name: timing.result[0] for name, timing in timings.items() if name != "generate"}
        alive = timings["loda"].result[1]
        # The vocabulary's head has the last token of each prompt, and every other module all of them.
        floor = np.interp(alive, ROWS, body).sum() + np.interp([count, *alive[1:]], ROWS, head).sum()
        for row in compare(timings, "loda", units=count):
            if row["name"] in texts:
                row["changed"] = sum(
                    a.tokens != b.tokens for a, b in zip(texts[row["name"]], texts["loda"], strict=True)
                )
                row["tokens"] = sum(len(text.tokens) for text in texts[row["name"]]) / count
            if row["name"] == "loda":
                row["floor's share"] = floor / count / row["seconds"]
            rows.append({"contexts": count, **row})
    return rows


def _watched(model: PreTrainedModel, given: Sequence[list[int]], rules: Rules) -> tuple[list[Hypothesis], list[int]]:
    """The best hypotheses, and how many rows each forward pass had: tokens of the prompts at first, then live beams."""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, inputs: rows.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    try:
        return search(model, given, rules), rows
    finally:
        handle.remove()


@torch.inference_mode()
def product_seconds(model: PreTrainedModel) -> tuple[list[float], list[float]]:
    """Seconds of all linear modules but the head, and of the head, on each number of `ROWS`."""
    head = model.get_output_embeddings()
    body = [module for module in model.modules() if is_linear(module) and module is not head]

    def step(modules: Sequence[nn.Module], rows: int) -> None:
        widths = {shape_of(module)[0] for module in modules}
        inputs = {width: torch.randn(rows, width, device=model.device) for width in widths}
        for module in modules:
            module(inputs[shape_of(module)[0]])

    steps = {(part, rows): partial(step, part, rows) for part in (tuple(body), (head,)) for rows in ROWS}
    timings = [timing.median for timing in take_turns(steps, repeats=2).values()]
    return timings[: len(ROWS)], timings[len(ROWS) :]
