"""The numbers of a table as series of points, and how one is drawn: what the figures of tables share."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes

from eval.figures.style import Look
from eval.tables.fill import Line, Statistic, TableData
from eval.tables.spec import Better, Published


@dataclass(frozen=True)
class Point:
    """One cell: where it stands, its value in the column's unit, its standard deviation (None for one seed)."""

    x: float
    mean: float
    deviation: float | None
    text: str = ""  # tells it from the other points of its series


@dataclass(frozen=True)
class Series:
    """The cells of one method, either ours or the paper's."""

    label: str
    is_published: bool
    points: list[Point]


Place = Callable[[Line, bool], float | None]
"""Where a line's cell stands on the x axis: ours or, if True, the published one; None: nowhere."""


def series(table: TableData, metric: str, place: Place) -> list[Series]:
    """One series per method for ours and, where it can be compared with ours, the paper's; none without points."""
    labels = dict.fromkeys(line.row.label for line in table.lines)
    sources = (False, True) if table.is_comparable else (False,)
    every = [
        Series(label, is_published, _points(table, metric, label, is_published, place))
        for label in labels
        for is_published in sources
    ]
    return [one for one in every if one.points]


def axis_label(table: TableData, metric: str) -> str:
    """The column's name, its unit and which end is the good one."""
    column = table.spec.columns[metric]
    arrow = "↑" if column.better is Better.higher else "↓"
    return f"{column.label or metric} ({column.unit}) {arrow}"


def draw_series(axes: Axes, one: Series, look: Look, *, linestyle: str, linewidth: float, stretch: float = 1) -> None:
    """Marks with error bars, joined by a line; the paper's hollow and paler. `stretch` multiplies every x."""
    axes.errorbar(
        [point.x * stretch for point in one.points],
        [point.mean for point in one.points],
        yerr=[point.deviation or 0 for point in one.points],
        color=look.colour,
        marker=look.marker,
        markerfacecolor="white" if one.is_published else look.colour,
        alpha=0.7 if one.is_published else 1,
        linestyle=linestyle,
        linewidth=linewidth,
        elinewidth=0.7,
        capsize=1.5,
    )


def _points(table: TableData, metric: str, label: str, is_published: bool, place: Place) -> list[Point]:
    points = []
    for line in table.lines:
        cell = line.cells[metric]
        value: Statistic | Published | None = cell.published if is_published else cell.ours
        x = place(line, is_published)
        if line.row.label == label and value is not None and x is not None:
            points.append(Point(x, value.mean, value.deviation, line.row.approx))
    return points
