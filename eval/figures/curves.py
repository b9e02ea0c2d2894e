"""A score against the bottleneck dimension r, a line for each method, with the deviation over seeds (Table 3)."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from eval.figures.series import Series, draw_series, series
from eval.figures.style import figure, legend_above, looks, styled
from eval.tables.fill import TableData

APART = 0.07  # in units of log2 r: error bars of different curves at the same r stand side by side


def data(table: TableData, metric: str) -> list[Series]:
    """The cells of `metric` against r."""
    return series(table, metric, lambda line, _: line.row.r)


def draw(curves: Sequence[Series], ylabel: str, title: str = "") -> Figure:
    """One panel over log2 r; ours solid and filled, the paper's dashed and hollow."""
    look = looks(curve.label for curve in curves)
    dimensions = sorted({point.x for curve in curves for point in curve.points})
    with styled():
        drawn = figure(height=2.4)
        axes = drawn.subplots()
        axes.set_xscale("log", base=2)
        for number, curve in enumerate(curves):
            shift = 2 ** (APART * (number - (len(curves) - 1) / 2))
            style = "--" if curve.is_published else "-"
            draw_series(axes, curve, look[curve.label], stretch=shift, linestyle=style, linewidth=1)
        axes.set_xticks(dimensions)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="bottleneck dimension r", ylabel=ylabel)
        axes.set_title(title)
        axes.grid()
        legend_above(drawn, look, with_published=any(curve.is_published for curve in curves), columns=4)
    return drawn
