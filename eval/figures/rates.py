"""The score of each method against its learning rate, as a multiple of the table's (`scripts.tune`)."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from eval.figures.style import figure, legend_above, looks, styled
from eval.tuning import Tuned


def draw(found: Sequence[Tuned], ylabel: str, scale: float, title: str = "") -> Figure:
    """One line for each row, the best trial ringed; rows of one label share its look."""
    look = looks(one.sweep.row.label for one in found)
    factors = sorted({trial.factor for one in found for trial in one.sweep.trials})
    with styled():
        drawn = figure(height=3.0)
        axes = drawn.subplots()
        axes.set_xscale("log", base=2)
        for one in found:
            style = look[one.sweep.row.label]
            points = [
                (trial.factor, value * scale, trial is one.best)
                for trial, value in zip(one.sweep.trials, one.values, strict=True)
                if value is not None
            ]
            xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
            axes.plot(xs, ys, color=style.colour, marker=style.marker, linewidth=0.9, markersize=3)
            for x, y, _ in (point for point in points if point[2]):
                axes.plot(x, y, "o", markersize=8, markerfacecolor="none", markeredgecolor=style.colour)
        axes.set_xticks(factors)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="learning rate / that of the table", ylabel=ylabel)
        axes.set_title(title)
        axes.grid()
        legend_above(drawn, look, with_published=False, columns=4)
    return drawn
