"""A table's differences to its baseline row, with their intervals: a panel for each metric, a line for each row."""

import re
from collections import Counter
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.figures.style import BOTH_COLUMNS, Look, figure, looks, mathematical, styled
from eval.tables.bootstrap import CONFIDENCE
from eval.tables.fill import FilledRow, FilledTable

FAR = 8
"""A difference of so many times the median of its panel is printed at the edge: drawn, it would hide the others."""


def draw(table: FilledTable) -> Figure | None:
    """Hollow markers where a side has one seed; None for a table without differences.

    Untrained rows are left out: they are so far away that nothing could be told of the others.
    """
    trained = [row for row in table.rows if row.spec.trained]
    rows = [row for row in trained if any(cell.against for cell in row.cells.values())]
    if not rows:
        return None
    look = looks(row.spec.label for row in rows)
    with styled():
        drawn = figure(height=1.4 + 0.16 * len(rows), width=BOTH_COLUMNS)
        metrics = [metric for metric in table.spec.columns if any(row.cells[metric].against for row in rows)]
        panels = drawn.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _panel(axes, table, rows, metric, look)
        panels[0].set_yticks(range(len(rows)), _names(rows))
        panels[0].set_ylim(len(rows) - 0.5, -0.5)  # as in the table, the first row on top
        handles = [
            Line2D([], [], label=text, color="dimgray", marker="o", markerfacecolor=fill)
            for text, fill, is_hollow in (
                ("over test contexts and seeds", "dimgray", False),
                ("one seed on a side: without its seed, too narrow", "white", True),
            )
            if any(_leaves_out_a_seed(table, row) is is_hollow for row in rows)
        ]
        drawn.legend(handles=handles, title=_heading(table), loc="outside upper center", ncols=2)
    return drawn


def name_of(table: FilledTable) -> str:
    """The name of the files, without suffix; 'LoDA+' keeps its plus, other signs become '-'."""
    row = re.sub(r"[^\w+]+", "-", str(table.baseline)).strip("-")
    return f"{table.spec.name}-{table.profile}-against-{row}"


def _heading(table: FilledTable) -> str:
    of_r = " at the same r" if any(row.spec.r is not None for row in table.rows) else ""
    text = f"Difference to {mathematical(str(table.baseline))}{of_r}, with {CONFIDENCE:.0%} intervals"
    return f"{text} ({table.title_prefix})" if table.title_prefix else text


def _leaves_out_a_seed(table: FilledTable, row: FilledRow) -> bool:
    place = table.baseline_of(row)
    return row.is_of_one_seed or (place is not None and table.rows[place].is_of_one_seed)


def _panel(axes: Axes, table: FilledTable, rows: list[FilledRow], metric: str, look: dict[str, Look]) -> None:
    column = table.spec.columns[metric]
    better = "better →" if column.better == "higher" else "← better"
    axes.axvline(0, color="black", linewidth=0.6)
    found = [(place, row, against) for place, row in enumerate(rows) if (against := row.cells[metric].against)]
    limit = FAR * median(abs(against.value) for _, _, against in found)
    for place, row, against in found:
        style = look[row.spec.label]
        if abs(against.value) > limit > 0:
            number, is_right = f"{against.value:+.{column.digits}f}", against.value > 0
            axes.text(
                1 if is_right else 0,
                place,
                f"{number} →" if is_right else f"← {number}",
                color=style["color"],
                fontsize="x-small",
                ha="right" if is_right else "left",
                va="center",
                transform=axes.get_yaxis_transform(),
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
        else:
            axes.errorbar(
                [against.value],
                [place],
                xerr=[[against.value - against.low], [against.high - against.value]],
                **style,
                markerfacecolor="white" if _leaves_out_a_seed(table, row) else style["color"],
                markersize=3,
                markeredgewidth=0.6,
                elinewidth=0.8,
            )
    axes.set(title=column.label or metric, xlabel=f"{column.unit}\n{better}")
    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _names(rows: list[FilledRow]) -> list[str]:
    """Method with approximation and r; rows that still have the same name say their trainable parameters."""
    names = [_name(row) for row in rows]
    often = Counter(names)
    return [
        f"{name}, {row.records[0].cost.trainable_parameters:,} parameters" if often[name] > 1 else name
        for name, row in zip(names, rows, strict=True)
    ]


def _name(row: FilledRow) -> str:
    approx = "" if row.spec.approx == "No" else f", {row.spec.approx}"
    r = "" if row.spec.r is None else f", r = {row.spec.r}"
    return f"{mathematical(row.spec.label)}{approx}{r}"
