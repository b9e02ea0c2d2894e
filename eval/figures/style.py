"""What all figures share: the printed size, the looks of the methods, the ways out (PNG, PDF, SVG).

Figures are drawn at the size they are printed at, one column of 3.3 inch, so that 7 points here are 7 points on paper.
The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color), which colour-blind readers can tell apart,
without the yellow, which is hard to see on white; marks differ in shape as well.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from loda.atomic import write_file

WIDTH = 3.3  # inches: a column of a two-column page
FONT = 7.0  # points, the smallest that is used

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)

SETTINGS: dict[Any, Any] = {  # the keys are a type of their own in matplotlib
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "legend.fontsize": FONT,
    "legend.title_fontsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.35,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.0,
    "pdf.fonttype": 42,  # letters stay letters: Type 3 fonts are refused by some publishers
    "svg.hashsalt": "loda",  # the same picture is the same file
}


# The files of a figure, and what is written into them beside it: no date, so that the same picture is the same file.
FORMATS: dict[str, dict[str, None]] = {"png": {}, "pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    colour: str
    marker: str


# A method looks the same in every figure; methods that are not named here take what is left, in order.
LOOKS = {
    "FT^Wq,Wv": Look(BLACK, "X"),
    "LoRA": Look(GREEN, "o"),
    "LoDA": Look(BLUE, "s"),
    "S-LoDA": Look(SKY, "D"),
    "R-LoDA": Look(BLUE, "^"),
    "LoDA+": Look(VERMILLION, "P"),
    "S-LoDA+": Look(ORANGE, "p"),
    "R-LoDA+": Look(VERMILLION, "v"),
}
SPARE = [Look(colour, marker) for marker, colour in product("*hd<>8", (PURPLE, BLACK, GREEN))]


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """The look of each method."""
    distinct = dict.fromkeys(labels)
    spare = iter(SPARE)
    return {label: LOOKS.get(label) or next(spare) for label in distinct}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the common style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def figure(height: float) -> Figure:
    """An empty figure of one column's width; `height` in inches.

    It belongs to no window and no global state, so nothing has to be closed.
    """
    empty = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(empty)
    return empty


def mathematical(label: str) -> str:
    """'FT^Wq,Wv' with its superscript."""
    base, _, power = label.partition("^")
    return f"{base}$^{{\\mathrm{{{power}}}}}$" if power else label


def legend_above(drawn: Figure, shown: Mapping[str, Look], with_published: bool, columns: int) -> None:
    """The look of each method, and what a hollow mark is, above the data."""
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, label=mathematical(label))
        for label, look in shown.items()
    ]
    if with_published:
        handles.append(Line2D([], [], color="dimgray", marker="o", markerfacecolor="white", ls="--", label="paper"))
    drawn.legend(handles=handles, loc="outside upper center", ncols=columns)


def save(drawn: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png` (300 dots per inch) and `<name>.pdf`; returns the paths."""
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    with styled():
        for path, (suffix, metadata) in zip(paths, FORMATS.items(), strict=True):
            write_file(path, partial(drawn.savefig, format=suffix, dpi=300, metadata=metadata))
    return paths


def svg(drawn: Figure) -> str:
    """The figure as an SVG document that needs no fonts."""
    stream = io.StringIO()
    with styled():
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
