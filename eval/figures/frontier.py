"""Scores and loss over multiply-accumulates, time and bytes, with the Pareto front."""

from collections.abc import Mapping
from math import nan
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.figures.style import BOTH_COLUMNS, MARKERS, Look, figure, looks, styled
from eval.tables.fill import FilledTable
from eval.tables.runs import experiment_of
from loda.settings import read_json

COSTS = ("M MACs per token", "ms per step", "MB")
"""Of the whole model; a step decodes one token of ten beams."""
SCORES = {"BLEU": True, "Valid loss": False}
"""The scores that are drawn, and whether a higher one is better."""
STEPS = "frontier/steps.json"
"""What `python -m scripts frontier` writes, below the folder of the records."""


def points(table: FilledTable, root: Path) -> pd.DataFrame:
    """The rows of the table `frontier` that have scores and a timed decoding step: costs beside scores."""
    steps = root / STEPS
    timed = {(row["run"], row["decode"]): row for row in read_json(steps)["rows"]} if steps.exists() else {}
    found = []
    for row in table.rows:
        own = [timed.get((record.run, record.hashes["decode"])) for record in row.records]
        bleu, loss = row.cells["BLEU"].ours, row.cells["LOSS"].ours
        if bleu is None or loss is None or not (step := next(filter(None, own), None)):
            continue
        # The loss was measured in fp32, whatever the texts were decoded in.
        is_rounded = experiment_of(row.overrides).decode.int8
        costs = [step["macs"] / 1e6, 1e3 * step["seconds"], step["bytes"] / 1e6]
        found.append([row.spec.label, row.spec.approx, *costs, bleu.mean, nan if is_rounded else loss.mean])
    return pd.DataFrame(found, columns=["Method", "Base", *COSTS, *SCORES])


def draw(points: pd.DataFrame) -> Figure:
    """A panel for each score (row) and each cost (column)."""
    look = looks(points["Method"])
    colors = {method: {"color": look[method]["color"], "markerfacecolor": _face(method, look)} for method in look}
    markers = {base: MARKERS[i % len(MARKERS)] for i, base in enumerate(points["Base"].unique())}
    with styled():
        drawn = figure(height=1.6 + 1.5 * len(SCORES), width=BOTH_COLUMNS)
        panels = drawn.subplots(len(SCORES), len(COSTS), sharex="col", sharey="row", squeeze=False)
        for row, (score, more_is_better) in zip(panels, SCORES.items(), strict=True):
            for axes, cost in zip(row, COSTS, strict=True):
                for _, point in points.iterrows():
                    axes.plot(point[cost], point[score], markers[point["Base"]], **colors[point["Method"]])
                _front(axes, points[cost], points[score], more_is_better)
                axes.grid()
                axes.xaxis.set_major_locator(MaxNLocator(4))
            row[0].set_ylabel(f"{score} {'↑' if more_is_better else '↓'}")
        for axes, cost in zip(panels[-1], COSTS, strict=True):
            axes.set_xlabel(f"{cost} ↓")
        handles = [Line2D([], [], ls="", marker="o", label=method, **colors[method]) for method in colors]
        handles += [Line2D([], [], ls="", color="dimgray", marker=mark, label=base) for base, mark in markers.items()]
        handles.append(Line2D([], [], color="silver", label="nothing measured is better in both"))
        drawn.legend(handles=handles, loc="outside upper center", ncols=2)
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
