"""How non-linear trained adapters are: the part of their output that no linear map gives, over the layers."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from eval.figures.style import MARKERS, figure, styled
from loda.linearization import LinearFit


def draw(fits: Mapping[str, Sequence[LinearFit]]) -> Figure:
    """A panel for each slice, a line for every run, over the layers."""
    slices = list(dict.fromkeys(fit.slice for found in fits.values() for fit in found))
    with styled():
        drawn = figure(height=1.9 + 0.15 * len(fits))
        panels = drawn.subplots(1, len(slices), sharey=True, squeeze=False)[0]
        for axes, part in zip(panels, slices, strict=True):
            for number, (label, found) in enumerate(fits.items()):
                values = [fit.nonlinearity for fit in found if fit.slice == part]
                marker = MARKERS[number % len(MARKERS)]  # in grey, lines of one dash look alike
                axes.plot(range(len(values)), values, marker=marker, markersize=2.5, label=label, linewidth=0.6)
            axes.set_title(part)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.grid()
        panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panels[0].set_ylim(0, None)
        drawn.supxlabel("layer", fontsize="medium")
        drawn.supylabel("not given by a linear map", fontsize="medium")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center")
    return drawn
