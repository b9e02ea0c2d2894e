"""Scores and loss over multiply-accumulates, time and bytes, with the Pareto front."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.figures.style import BOTH_COLUMNS, MARKERS, Look, figure, looks, styled


def draw(points: pd.DataFrame, costs: list[str], scores: dict[str, bool]) -> Figure:
    """A panel for each score (row) and each cost (column).

    Args:
        points: a row for every model, with the columns Method and Base, `costs` and `scores`.
        costs: the columns of which less is better.
        scores: the columns of what is left, and whether more is better.
    """
    look = looks(points["Method"])
    colors = {method: {"color": look[method]["color"], "markerfacecolor": _face(method, look)} for method in look}
    markers = {base: MARKERS[i % len(MARKERS)] for i, base in enumerate(points["Base"].unique())}
    with styled():
        drawn = figure(height=1.6 + 1.5 * len(scores), width=BOTH_COLUMNS)
        panels = drawn.subplots(len(scores), len(costs), sharex="col", sharey="row", squeeze=False)
        for row, (score, more_is_better) in zip(panels, scores.items(), strict=True):
            for axes, cost in zip(row, costs, strict=True):
                for _, point in points.iterrows():
                    axes.plot(point[cost], point[score], markers[point["Base"]], **colors[point["Method"]])
                _front(axes, points[cost], points[score], more_is_better)
                axes.grid()
                axes.xaxis.set_major_locator(MaxNLocator(4))
            row[0].set_ylabel(f"{score} {'↑' if more_is_better else '↓'}")
        for axes, cost in zip(panels[-1], costs, strict=True):
            axes.set_xlabel(f"{cost} ↓")
        handles = [Line2D([], [], ls="", marker="o", label=method, **colors[method]) for method in colors]
        handles += [Line2D([], [], ls="", color="dimgray", marker=mark, label=base) for base, mark in markers.items()]
        handles.append(Line2D([], [], color="silver", label="nothing measured is better in both"))
        drawn.legend(handles=handles, loc="outside upper center", ncols=3)
    return drawn


def _face(method: str, look: Mapping[str, Look]) -> str:
    """LoRA is hollow, so that the picture can be read without colours."""
    return "white" if method == "LoRA" else str(look[method]["color"])


def _front(axes: Axes, costs: pd.Series, scores: pd.Series, more_is_better: bool) -> None:
    """Steps along the points that no other beats in both, on to the right edge; points without a score do not count."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(zip(costs, scores, strict=True)):
        if score == score and (not front or (score > front[-1][1] if more_is_better else score < front[-1][1])):
            front.append((cost, score))
    right = axes.get_xlim()[1]
    xs, ys = zip(*front, (right, front[-1][1]), strict=True)
    axes.plot(xs, ys, color="silver", drawstyle="steps-post", zorder=0)
    axes.set_xlim(right=right)
