"""The losses of training: a panel for each method, a line for each run."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.figures.style import BLACK, figure, mathematical, styled

MOST_POINTS = 60  # of a line; a journal of thousands of updates is averaged down to so many


@dataclass(frozen=True)
class Run:
    """The journal of one run: mean losses in nats per target token, and the epochs at which they were logged."""

    method: str
    variant: str  # what tells it from the method's other runs, but for the seed
    epochs: list[float]
    losses: list[float]


def draw(runs: Sequence[Run], title: str = "") -> Figure:
    """Panels side by side, two in a row, over the same axes; runs of one variant have one colour."""
    methods = list(dict.fromkeys(run.method for run in runs))
    rows = math.ceil(len(methods) / 2)
    with styled():
        drawn = figure(height=0.4 + 1.25 * rows)
        panels = drawn.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, method in zip(panels, methods, strict=False):
            _draw_panel(axes, method, [run for run in runs if run.method == method])
        for axes in panels[len(methods) :]:
            axes.set_axis_off()
        drawn.supxlabel("epoch", fontsize="medium")
        drawn.supylabel("training loss (nats per token)", fontsize="medium")
        drawn.suptitle(title, fontsize="medium")
    return drawn


def read(journal: Path, method: str, variant: str) -> Run:
    """The losses of a run's `train.jsonl`."""
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    return Run(method, variant, [line["epoch"] for line in lines], [line["loss"] for line in lines])


def averaged(values: Sequence[float], most: int = MOST_POINTS) -> list[float]:
    """`values` if there are at most `most`, else the means of that many consecutive pieces."""
    count = min(len(values), most)
    bounds = [len(values) * piece // count for piece in range(count + 1)] if count else []
    return [fmean(values[start:stop]) for start, stop in pairwise(bounds)]


def _draw_panel(axes: Axes, method: str, runs: Sequence[Run]) -> None:
    variants = list(dict.fromkeys(run.variant for run in runs))
    shades = colormaps["viridis"]
    colours = {variant: shades(0.85 * number / max(1, len(variants) - 1)) for number, variant in enumerate(variants)}
    named: set[str] = set()
    for run in runs:
        axes.plot(
            averaged(run.epochs),
            averaged(run.losses),
            color=colours[run.variant] if len(variants) > 1 else BLACK,
            linewidth=0.8,
            label=run.variant if run.variant not in named else None,
        )
        named.add(run.variant)
    axes.set_title(mathematical(method))
    axes.grid()
    if len(variants) > 1:
        axes.legend(loc="upper right", ncols=2, handlelength=1, borderpad=0, labelspacing=0.2, columnspacing=0.6)
