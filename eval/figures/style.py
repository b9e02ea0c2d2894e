"""What all figures share: the printed size, the look of each method, saving as PNG, PDF and SVG.

Figures are drawn at the size they are printed at, so 7 points here are 7 points on paper. The colours are those of
Okabe and Ito (https://jfly.uni-koeln.de/color), which colour-blind readers can tell apart; the shapes of the markers
differ as well.
"""

import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loda.atomic import write_file

WIDTH = 3.3  # inches: a column of a two-column page
BOTH_COLUMNS = 6.9
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION = "#0072B2", "#D55E00"
MARKERS = "osD^vP*Xp<"
"""The shapes of lines that have no look of their own."""

styled = partial(matplotlib.rc_context, fname=Path(__file__).with_name("paper.mplstyle"))
"""Draw in the common style; the user's matplotlibrc does not count."""

Look = dict[str, Any]
"""How a method is drawn: colour and marker, as matplotlib's keyword arguments."""

# A method looks the same in every figure.
LOOKS: dict[str, Look] = {
    "FT^Wq,Wv": {"color": BLACK, "marker": "X"},
    "LoRA": {"color": GREEN, "marker": "o"},
    "LoDA": {"color": BLUE, "marker": "s"},
    "S-LoDA": {"color": SKY, "marker": "D"},
    "R-LoDA": {"color": BLUE, "marker": "^"},
    "LoDA+": {"color": VERMILLION, "marker": "P"},
    "S-LoDA+": {"color": ORANGE, "marker": "p"},
    "R-LoDA+": {"color": VERMILLION, "marker": "v"},
}


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """The look of each method; matplotlib's own colours for methods without one."""
    return {
        label: LOOKS.get(label, {"color": f"C{number}", "marker": "*"})
        for number, label in enumerate(dict.fromkeys(labels))
    }


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, sizes in inches; outside pyplot, so that nothing has to be closed."""
    empty = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(empty)
    return empty


def mathematical(label: str) -> str:
    """'FT^Wq,Wv' with its superscript."""
    base, _, power = label.partition("^")
    return f"{base}$^{{\\mathrm{{{power}}}}}$" if power else label


def save(drawn: Figure, folder: Path, name: str) -> None:
    """Write `<name>.png` and `<name>.pdf`, undated, so that the same picture is the same file."""
    with styled():
        write_file(folder / f"{name}.png", partial(drawn.savefig, format="png", dpi=300))
        write_file(folder / f"{name}.pdf", partial(drawn.savefig, format="pdf", metadata={"CreationDate": None}))


def svg(drawn: Figure) -> str:
    """The figure as an SVG document that needs no fonts."""
    stream = io.StringIO()
    with styled():
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
