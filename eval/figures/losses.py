"""The losses of training: a panel for each method, a line for each run."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.figures.style import figure, mathematical, styled

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
    colours = _colours([run.variant for run in runs])
    rows = math.ceil(len(methods) / 2)
    with styled():
        drawn = figure(height=0.7 + 1.1 * rows)
        panels = drawn.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, method in zip(panels, methods, strict=False):
            for run in runs:
                if run.method == method:
                    axes.plot(averaged(run.epochs), averaged(run.losses), color=colours[run.variant], linewidth=0.8)
            axes.set_title(mathematical(method))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid()
        for axes in panels[len(methods) :]:
            axes.set_axis_off()
        drawn.supxlabel("epoch", fontsize="medium")
        drawn.supylabel("training loss (nats per token)", fontsize="medium")
        handles = [Line2D([], [], color=colour, label=variant) for variant, colour in colours.items()]
        columns = 5 if max(map(len, colours)) < 8 else 3  # what fits into the width
        drawn.legend(handles=handles, title=title, loc="outside upper center", ncols=columns)
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


def _colours(variants: Sequence[str]) -> dict[str, str]:
    """From dark to light in order of appearance; without the lightest, which is hard to see on white."""
    distinct = list(dict.fromkeys(variants))
    step = 0.85 / max(1, len(distinct) - 1)
    return {variant: to_hex(colormaps["viridis"](step * number)) for number, variant in enumerate(distinct)}
