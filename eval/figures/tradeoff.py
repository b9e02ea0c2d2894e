"""A score against the multiply-accumulates that compute Q, K and V, a mark for each method (Table 2)."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from eval.figures.labels import place
from eval.figures.series import Point, Series, draw_series, series
from eval.figures.style import figure, legend_above, looks, styled
from eval.tables.fill import Line, TableData


def data(table: TableData, metric: str) -> list[Series]:
    """The cells of `metric` against MACs per token, merged where the method can be merged."""
    return series(table, metric, _macs)


def draw(methods: Sequence[Series], ylabel: str, title: str = "") -> Figure:
    """One panel; ours filled, the paper's hollow; the approximation is written beside the marks that share it."""
    look = looks(method.label for method in methods)
    with styled():
        drawn = figure(height=2.9)
        axes = drawn.subplots()
        for method in methods:
            draw_series(axes, method, look[method.label], linestyle=":", linewidth=0.5)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel="MACs per token to compute Q, K and V", ylabel=ylabel)
        axes.set_title(title)
        axes.margins(x=0.12, y=0.15)
        axes.grid()
        legend_above(drawn, look, with_published=any(method.is_published for method in methods), columns=4)
        place(axes, _approximations(methods), [point for method in methods for point in method.points])
    return drawn


def _macs(line: Line, is_published: bool) -> float | None:
    if is_published:
        return line.row.published_macs
    cost = line.records[0].cost if line.records else None
    return None if cost is None else cost.merged_macs_per_token or cost.macs_per_token


def _approximations(methods: Sequence[Series]) -> dict[str, list[Point]]:
    """The points of each approximation; it, and hardly the adapter, determines where they stand."""
    groups: dict[str, list[Point]] = {}
    for method in methods:
        for point in method.points:
            if point.text != "No":
                groups.setdefault(point.text, []).append(point)
    return groups
