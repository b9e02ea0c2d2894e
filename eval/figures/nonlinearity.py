"""How non-linear trained adapters are: the part of their output that no linear map gives, over the layers."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from eval.figures.style import figure, styled
from loda.linearization import LinearFit

LINES = {"q": "-", "k": ":", "v": "--"}


def draw(fits: Mapping[str, Sequence[LinearFit]]) -> Figure:
    """A line for every adapter and slice, in the order of the layers."""
    with styled():
        drawn = figure(height=2.2)
        axes = drawn.subplots()
        for number, (label, found) in enumerate(fits.items()):
            for part in dict.fromkeys(fit.slice for fit in found):
                values = [fit.nonlinearity for fit in found if fit.slice == part]
                style = LINES.get(part, "-.")
                axes.plot(range(len(values)), values, style, color=f"C{number}", label=f"{label}, {part}", linewidth=1)
        axes.set_xlabel("layer")
        axes.set_ylabel("output that no linear map gives")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_ylim(0, None)
        axes.grid()
        axes.legend()
    return drawn
