"""Scores and loss over multiply-accumulates, time and bytes, with the Pareto front."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.figures.style import BOTH_COLUMNS, LOOKS, figure, styled

MARKERS = "osD^vP*X"


def draw(points: pd.DataFrame, costs: list[str], scores: dict[str, bool]) -> Figure:
    """A panel for each score (row) and each cost (column).

    Args:
        points: a row for every model, with the columns Method and Base, `costs` and `scores`.
        costs: the columns of which less is better.
        scores: the columns of what is left, and whether more is better.
    """
    methods, bases = points["Method"].unique(), points["Base"].unique()
    colors = {method: LOOKS[method]["color"] for method in methods}
    markers = dict(zip(bases, MARKERS, strict=False))
    with styled():
        drawn = figure(height=1.6 + 1.5 * len(scores), width=BOTH_COLUMNS)
        panels = drawn.subplots(len(scores), len(costs), sharex="col", sharey="row", squeeze=False)
        for row, (score, more_is_better) in zip(panels, scores.items(), strict=True):
            for axes, cost in zip(row, costs, strict=True):
                _front(axes, points[cost], points[score], more_is_better)
                for _, point in points.iterrows():
                    color, filled = colors[point["Method"]], point["Method"] != "LoRA"
                    face = color if filled else "white"
                    axes.plot(point[cost], point[score], markers[point["Base"]], color=color, markerfacecolor=face)
                axes.grid()
                axes.xaxis.set_major_locator(MaxNLocator(4))
            row[0].set_ylabel(f"{score} {'↑' if more_is_better else '↓'}")
        for axes, cost in zip(panels[-1], costs, strict=True):
            axes.set_xlabel(f"{cost} ↓")
        handles = [
            Line2D(
                [], [], ls="", color=colors[m], marker="o", label=m, markerfacecolor="white" if m == "LoRA" else None
            )
            for m in methods
        ]
        handles += [Line2D([], [], ls="", color="dimgray", marker=markers[base], label=base) for base in bases]
        handles.append(Line2D([], [], color="silver", label="nothing measured is better in both"))
        drawn.legend(handles=handles, loc="outside upper center", ncols=3)
    return drawn


def _front(axes: Axes, costs: pd.Series, scores: pd.Series, more_is_better: bool) -> None:
    """Steps along the points that no other beats in both."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(zip(costs, scores * (-1 if more_is_better else 1), strict=True)):
        if not front or score < front[-1][1]:
            front.append((cost, score))
    sign = -1 if more_is_better else 1
    axes.plot(*zip(*((x, sign * y) for x, y in front), strict=True), color="silver", drawstyle="steps-post", zorder=0)
