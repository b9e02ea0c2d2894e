"""How the times grow, as one figure: training by rows and batch, decoding by contexts and beams, adapters by r."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import pandas
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import nn

import loda
from benchmarks.decoding import adapted_model, search
from benchmarks.inference import one_layer, plain_and_optimized, projection, repeated
from benchmarks.timing import Row, Step, take_turns
from benchmarks.train_step import SMOOTHING, pad_to_512, reference_loss
from benchmarks.workload import SHAPES, VOCABULARY, build_model, prompts
from eval.figures.style import BLUE, ORANGE, VERMILLION, figure, save, styled
from loda.adapters import LoDA, LoDAPlus, LoRA
from loda.lab.training.examples import Example, collate
from loda.lab.training.loss import target_loss

LENGTHS, BATCHES = (32, 64, 128, 256, 512), (1, 2, 4, 8)
CONTEXTS, BEAMS = (1, 4, 16), (1, 4, 16)
RANKS = (2, 8, 32, 128, 512, 1024)
ADAPTERS = {"LoRA": LoRA, "LoDA": LoDA, "LoDA+": LoDAPlus}
Place = tuple[str, int]
"""Name of the line and place on the x axis."""
Panel = tuple[str, str, pandas.DataFrame]
"""Labels of x and y, and the points: a column for each line."""


def run(options: argparse.Namespace) -> list[Row]:
    """The first and the last time of each line; writes growth.png and growth.pdf."""
    shape, width = options.model or "gpt2_mini", SHAPES[options.model or "gpt2_medium"][1]
    measure = partial(_measure, options.repeats or 3)
    panels = [*_training(shape, options.device, measure), *_decoding(shape, options.device, measure)]
    panels += _adapters(width, options.device, measure)
    save(_draw(panels), options.outputs, "growth")
    return [
        {"name": name, "y": y, "x": x, "first": points.iloc[0], "last": points.iloc[-1], "points": points.to_dict()}
        for x, y, frame in panels
        for name, points in frame.items()
    ]


def _measure(repeats: int, steps: dict[Place, Step]) -> pandas.DataFrame:
    return pandas.Series({place: timing.median for place, timing in take_turns(steps, repeats).items()}).unstack(0)


Measure = Callable[[dict[Place, Step]], pandas.DataFrame]


def _training(shape: str, device: str, measure: Measure) -> Iterator[Panel]:
    """A step of LoDA+ against the length of 4 rows, and against the number of rows of 64 tokens."""
    model = loda.inject(build_model(shape, device), loda.LodaConfig(LoDAPlus(dropout=0.1))).train()

    def steps(place: int, rows: int, length: int) -> dict[Place, Step]:
        made = [Example(torch.randint(VOCABULARY, (length,)).tolist(), length // 2) for _ in range(rows)]

        def step(loss: Callable[..., torch.Tensor], batch: object) -> None:
            loss(model, batch, SMOOTHING).backward()
            model.zero_grad()

        return {
            ("this project", place): partial(step, target_loss, collate(made).to(model.device)),
            ("padded to 512", place): partial(step, reference_loss, pad_to_512(made).to(model.device)),
        }

    by_length = {key: step for length in LENGTHS for key, step in steps(length, 4, length).items()}
    by_rows = {key: step for rows in BATCHES for key, step in steps(rows, rows, 64).items()}
    yield "tokens of a row", "seconds per step", measure(by_length)
    yield "rows of a batch", "seconds per step", measure(by_rows)


def _decoding(shape: str, device: str, measure: Measure) -> Iterator[Panel]:
    """A search of 16 steps with LoDA+, against contexts (ten beams) and against beams (eight contexts)."""
    model, given = adapted_model(shape, None, device), prompts(max(CONTEXTS), shape)
    by_contexts: dict[Place, Step] = {("loda", n): partial(search, model, given[:n], steps=16) for n in CONTEXTS}
    by_beams: dict[Place, Step] = {("loda", n): partial(search, model, given[:8], n, steps=16) for n in BEAMS}
    yield "contexts", "seconds", measure(by_contexts)
    yield "beams", "seconds", measure(by_beams)


def _adapters(width: int, device: str, measure: Measure) -> Iterator[Panel]:
    """The projection of 256 tokens with adapters over the bare one, against r, plain and optimised."""
    base, x = one_layer(width, device), torch.randn(256, width, device=device)
    ranks = [r for r in RANKS if r <= width]
    modules: dict[Place, tuple[nn.Module, nn.Module]] = {
        (name, r): plain_and_optimized(base, loda.LodaConfig(adapter(r=r)))
        for name, adapter in ADAPTERS.items()
        for r in ranks
    }
    for state, label in enumerate(("r, plain", "r, optimized")):
        steps = {place: repeated(pair[state], x, runs=2) for place, pair in modules.items()}
        frame = measure(steps | {("bare", r): repeated(projection(base), x, runs=2) for r in ranks})
        yield label, "time over the bare", frame[list(ADAPTERS)].div(frame["bare"], axis=0)


def _draw(panels: list[Panel]) -> Figure:
    """Panels in pairs, all axes logarithmic."""
    with styled():
        drawn = figure(height=5.4)
        grid = drawn.subplots(len(panels) // 2, 2, sharey="row")
        for axes, (x, y, frame) in zip(grid.flat, panels, strict=True):
            for colour, marker, (name, points) in zip((BLUE, ORANGE, VERMILLION), "osP", frame.items(), strict=False):
                axes.plot(points.index, points, color=colour, marker=marker, label=name)
            axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log", xticks=frame.index)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
            axes.grid()
            if frame.shape[1] > 1:
                axes.legend()
    return drawn
