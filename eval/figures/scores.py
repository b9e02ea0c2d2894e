"""A table's scores, with the deviation over seeds: against r (Table 3), or against multiply-accumulates (Table 2)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullLocator, ScalarFormatter

from eval.figures.style import Look, figure, looks, mathematical, styled
from eval.tables.fill import FilledRow, FilledTable, Statistic
from eval.tables.spec import Published

APART = 0.07  # of log2 r: keeps the error bars of different curves at one r from covering each other

MARGIN = 1.6  # times the first and last r


@dataclass(frozen=True)
class Point:
    """One cell of a table; the deviation of one seed is drawn as 0."""

    x: float
    mean: float
    deviation: float
    approx: str


@dataclass(frozen=True)
class Series:
    """The cells of one method, either ours or the paper's."""

    label: str
    is_published: bool
    points: list[Point]


def draw(table: FilledTable, metric: str) -> Figure | None:
    """One panel, ours filled and the paper's hollow; None for a table without a figure or a metric without values."""
    found = series(table, metric) if table.spec.figure else []
    if not found:
        return None
    column, look = table.spec.columns[metric], looks(one.label for one in found)
    is_curves = table.spec.figure == "curves"
    with styled():
        drawn = figure(height=2.4 if is_curves else 2.9)
        axes = drawn.subplots()
        axes.set(ylabel=f"{column.label or metric} ({column.unit}) {column.arrow}", title=table.title_prefix)
        axes.grid()
        handles = [Line2D([], [], label=mathematical(label), **kind) for label, kind in look.items()]
        if any(one.is_published for one in found):
            handles.append(Line2D([], [], color="dimgray", marker="o", markerfacecolor="white", ls="--", label="paper"))
        drawn.legend(handles=handles, loc="outside upper center", ncols=4)
        (_curves if is_curves else _tradeoff)(axes, found, look)
    return drawn


def series(table: FilledTable, metric: str) -> list[Series]:
    """Our series of each method and, where the two can be compared, the paper's; none without points."""
    points: dict[tuple[str, bool], list[Point]] = defaultdict(list)
    for row in table.rows:
        cell = row.cells[metric]
        values: list[Statistic | Published | None] = [cell.ours, cell.published if table.is_comparable else None]
        for value, is_published in zip(values, (False, True), strict=True):
            if value is not None and (x := _x(table, row, is_published)) is not None:
                point = Point(x, value.mean, value.deviation or 0, row.spec.approx)
                points[row.spec.label, is_published].append(point)
    return [Series(label, is_published, found) for (label, is_published), found in points.items()]


def _x(table: FilledTable, row: FilledRow, is_published: bool) -> float | None:
    """r, or the MACs per token, merged where the method can be merged."""
    if table.spec.figure == "curves":
        return row.spec.r
    if is_published:
        return row.spec.published_macs
    return (row.cost.merged_macs_per_token or row.cost.macs_per_token) if row.cost else None


def _curves(axes: Axes, found: Sequence[Series], look: Mapping[str, Look]) -> None:
    """Lines over log2 r, the paper's dashed."""
    axes.set_xscale("log", base=2)
    for number, one in enumerate(found):
        stretch = 2 ** (APART * (number - (len(found) - 1) / 2))
        style = "--" if one.is_published else "-"
        _draw_series(axes, one, look[one.label], stretch=stretch, linestyle=style, linewidth=1)
    places = sorted({point.x for one in found for point in one.points})
    axes.set_xlim(places[0] / MARGIN, places[-1] * MARGIN)  # of one r too, whose curves would spread over all the width
    axes.set_xticks(places)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bottleneck dimension r")


def _tradeoff(axes: Axes, found: Sequence[Series], look: Mapping[str, Look]) -> None:
    """Markers over MACs; a text above names the approximation."""
    for one in found:
        _draw_series(axes, one, look[one.label], stretch=1, linestyle=":", linewidth=0.5)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("MACs per token to compute Q, K and V")
    axes.margins(x=0.12, y=0.15)
    points = [point for one in found for point in one.points]
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        if point.approx != "No":
            groups[point.approx].append(point)
    texts = [
        # Outside the layout: otherwise the axes shrink after the texts are placed.
        axes.text(
            fmean(p.x for p in group), max(p.mean + p.deviation for p in group), approx, ha="center", in_layout=False
        )
        for approx, group in groups.items()
    ]
    xs, ys = zip(*((p.x, p.mean + sign * p.deviation) for p in points for sign in (-1, 0, 1)), strict=True)
    lines = {"arrowstyle": "-", "linewidth": 0.4}
    # A limit of steps: with the default limit of time, the picture would depend on the machine.
    adjust_text(texts, x=xs, y=ys, ax=axes, expand=(1.05, 1.3), iter_lim=500, arrowprops=lines)


def _draw_series(axes: Axes, one: Series, look: Look, *, stretch: float, linestyle: str, linewidth: float) -> None:
    """Markers with error bars, joined by a line. `stretch` multiplies every x."""
    axes.errorbar(
        [point.x * stretch for point in one.points],
        [point.mean for point in one.points],
        yerr=[point.deviation for point in one.points],
        **look,
        markerfacecolor="white" if one.is_published else look["color"],
        alpha=0.7 if one.is_published else 1,
        linestyle=linestyle,
        linewidth=linewidth,
        elinewidth=0.7,
        capsize=1.5,
    )
