"""The losses of training: a panel for each method, a line for each run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.figures.style import BOTH_COLUMNS, figure, mathematical, styled
from loda.lab.training.metrics_logger import read_metrics

MOST_POINTS = 60  # of a line
IN_A_ROW = 4  # panels
DASHES = ("-", "--", "-.", ":")  # so that lines are told apart in grey


@dataclass(frozen=True)
class Losses:
    """The losses of one run in nats per target token, as the columns `epoch` and `loss`."""

    method: str
    variant: str  # how the run differs from the method's other runs, apart from the seed
    curve: pd.DataFrame


def read(metrics: Path, method: str, variant: str) -> Losses:
    """The losses in a run's `metrics.jsonl`, averaged over consecutive updates to at most MOST_POINTS."""
    curve = pd.DataFrame(read_metrics(metrics), columns=["epoch", "loss"])
    piece = curve.index * MOST_POINTS // max(len(curve), MOST_POINTS)
    return Losses(method, variant, curve.groupby(piece).mean())


def draw(runs: Sequence[Losses], title: str = "") -> Figure:
    """A panel for each method over the same axes; a colour and a dash for each variant."""
    methods = list(dict.fromkeys(run.method for run in runs))
    variants = list(dict.fromkeys(run.variant for run in runs))
    # From dark to light, without the lightest, which is hard to see on white.
    colours = colormaps["viridis"](np.linspace(0, 0.85, len(variants)))
    dashes = [DASHES[number % len(DASHES)] for number in range(len(variants))]
    looks = {
        variant: {"color": colour, "linestyle": dash}
        for variant, colour, dash in zip(variants, colours, dashes, strict=True)
    }
    columns = min(IN_A_ROW, len(methods))
    rows = math.ceil(len(methods) / columns)
    with styled():
        drawn = figure(height=0.7 + 1.4 * rows, width=BOTH_COLUMNS)
        panels = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for place, (axes, method) in enumerate(zip(panels, methods, strict=False)):
            for run in runs:
                if run.method == method:
                    axes.plot(run.curve["epoch"], run.curve["loss"], **looks[run.variant], linewidth=0.8)
            axes.set_title(mathematical(method))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.tick_params(labelbottom=place + columns >= len(methods))  # nothing stands below it
            axes.grid()
        for axes in panels[len(methods) :]:
            axes.set_axis_off()
        drawn.supxlabel("epoch", fontsize="medium")
        drawn.supylabel("training loss (nats per token)", fontsize="medium")
        handles = [Line2D([], [], **look, label=variant) for variant, look in looks.items()]
        drawn.legend(handles=handles, title=title, loc="outside upper center", ncols=5)
    return drawn
