"""What a plan left of every projection: the share of multiply-accumulates over depth, a line for each kind."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from eval.figures.style import MARKERS, figure, styled


def draw(modules: pd.DataFrame) -> Figure:
    """Draw a plan, whose `modules` have the columns kind, macs and dense_macs, in the order of the model."""
    with styled():
        drawn = figure(height=2.4)
        axes = drawn.subplots()
        for number, (kind, found) in enumerate(modules.groupby("kind", sort=False)):
            shares = (found["macs"] / found["dense_macs"]).to_list()
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(range(len(shares)), shares, marker=marker, markersize=3, linewidth=0.8, label=str(kind))
        axes.set_xlabel("layer")
        axes.set_ylabel("multiply-accumulates left")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_ylim(0, 1.05)
        axes.grid()
        drawn.legend(loc="outside upper center", ncols=2)
    return drawn
