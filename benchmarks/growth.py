"""How the times grow, as one figure.

Training with the length of rows, decoding with contexts, adapters with r, and reading records with their number.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas
import torch
from matplotlib.figure import Figure

import loda
from benchmarks.decoding import adapted_model, search
from benchmarks.inference import one_layer, plain_and_optimized, projection, repeated
from benchmarks.timing import Row, Step, take_turns
from benchmarks.train_step import SMOOTHING, pad_to_512, reference_loss
from benchmarks.workload import SHAPES, VOCABULARY, build_model, prompts
from eval.figures.style import figure, save, styled
from eval.results import collect, keep, read_kept
from loda.adapters import LoDA, LoDAPlus, LoRA
from loda.lab.training.examples import Batch, Example, collate
from loda.lab.training.loss import target_loss

LENGTHS = (32, 64, 128, 256, 512)
CONTEXTS = (1, 4, 16)
RANKS = (2, 8, 32, 128, 512, 1024)
RECORDS = (100, 300, 1000)
ADAPTERS = {"LoRA": LoRA, "LoDA": LoDA, "LoDA+": LoDAPlus}
Steps = dict[tuple[str, int], Step]
"""The steps of a panel by the name of their line and their place on the x axis."""


def run(options: argparse.Namespace) -> list[Row]:
    """The first and the last time of each line; writes growth.png and growth.pdf."""
    shape, width = options.model or "gpt2_mini", SHAPES[options.model or "gpt2_medium"][1]
    panels: dict[str, Steps] = {
        "tokens of a row": _training(shape, options.device),
        "contexts": _decoding(shape, options.device),
        "r, optimized": _adapters(width, options.device),
        "records": _records(),
    }
    frames = {}
    for x, steps in panels.items():
        timings = take_turns(steps, options.repeats or 3)
        frames[x] = pandas.Series({key: timing.median for key, timing in timings.items()}).unstack(0)
    save(_draw(frames), options.outputs, "growth")
    return [
        {"name": name, "x": x, "first": points.iloc[0], "last": points.iloc[-1], "points": points.to_dict()}
        for x, frame in frames.items()
        for name, points in frame.items()
    ]


def _training(shape: str, device: str) -> Steps:
    """A step of LoDA+ with 4 rows."""
    model = loda.inject(build_model(shape, device), loda.LodaConfig(LoDAPlus(dropout=0.1))).train()
    steps: Steps = {}

    def step(loss: Callable[..., torch.Tensor], batch: Batch) -> None:
        loss(model, batch, SMOOTHING).backward()
        model.zero_grad()

    for length in LENGTHS:
        rows = [Example(torch.randint(VOCABULARY, (length,)).tolist(), length // 2) for _ in range(4)]
        ours, theirs = collate(rows).to(model.device), pad_to_512(rows).to(model.device)
        steps["loda", length] = partial(step, target_loss, ours)
        steps["padded to 512", length] = partial(step, reference_loss, theirs)
    return steps


def _decoding(shape: str, device: str) -> Steps:
    """A search of 16 steps with LoDA+."""
    model, given = adapted_model(shape, device), prompts(max(CONTEXTS))
    return {("loda", n): partial(search, model, given[:n], steps=16) for n in CONTEXTS}


def _adapters(width: int, device: str) -> Steps:
    """The projection of 256 tokens, bare and with an optimised adapter."""
    base, x = one_layer(width, device), torch.randn(256, width, device=device)
    steps: Steps = {}
    for r in (r for r in RANKS if r <= width):
        steps["bare", r] = repeated(projection(base), x, runs=2)
        for name, adapter in ADAPTERS.items():
            _, optimized = plain_and_optimized(base, loda.LodaConfig(adapter(r=r)))
            steps[name, r] = repeated(optimized, x, runs=2)
    return steps


def _records() -> Steps:
    """Reading all records below a folder, as every table does: copies of one of this repository's."""
    original = read_kept(min(Path("results").glob("*.json")))
    steps: Steps = {}
    for number in RECORDS:
        folder = tempfile.TemporaryDirectory()
        for i in range(number):
            keep(replace(original, run=f"{original.run}-{i}"), {}, Path(folder.name))
        steps["records", number] = partial(_read, folder)
    return steps


def _read(folder: tempfile.TemporaryDirectory[str]) -> None:
    collect(folder.name)


def _draw(frames: Mapping[str, pandas.DataFrame]) -> Figure:
    with styled():
        drawn = figure(height=7.2)
        for axes, (x, frame) in zip(drawn.subplots(len(frames)), frames.items(), strict=True):
            axes.plot(frame.index, frame, marker="o", label=list(frame))
            axes.set(xlabel=x, ylabel="seconds", xscale="log", yscale="log", xticks=frame.index)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.minorticks_off()
            axes.grid()
            axes.legend()
    return drawn
