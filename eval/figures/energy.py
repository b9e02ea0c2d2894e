"""Figure 2 of the paper: the energy of W_proj that a low-rank or a sparse approximation keeps.

(a) sum of the R largest squared singular values over the sum of all, against R; (b) sum of the largest squared entries
over the sum of all, against the percentage kept.
"""

from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from eval.figures.style import BLACK, BLUE, figure, styled

Energy = dict[str, list[float]]
"""Fractions of the energy: `rank` for R = 1, 2, ... and `percent` for 1 to 100 % of the entries."""


def kept_energy(weight: Tensor) -> Energy:
    """Both curves of a weight (d_in, d_out), computed in float64."""
    singular = torch.linalg.svdvals(weight.double()).square().cumsum(0)
    entries = weight.double().square().flatten().sort(descending=True).values.cumsum(0)
    kept = torch.tensor([round(p / 100 * len(entries)) for p in range(1, 101)]).clamp(min=1)
    return {"rank": (singular / singular[-1]).tolist(), "percent": (entries[kept - 1] / entries[-1]).tolist()}


PUBLISHED = {"figure2-gpt2_medium-block0": {"rank": 0.93, "percent": 0.96}}
"""What the paper reads off its figure: more than this is kept."""


def readings(energy: Energy) -> dict[str, tuple[int, float]]:
    """Where the paper reads its figure: the energy at 300 of 1024 singular values and at 40 % of the entries."""
    rank = round(300 / 1024 * len(energy["rank"]))
    return {"rank": (rank, energy["rank"][rank - 1]), "percent": (40, energy["percent"][39])}


def summary(energy: Energy) -> str:
    """What the paper reads off its figure."""
    rank, percent = readings(energy).values()
    return f"rank {rank[0]} of {len(energy['rank'])} keeps {rank[1]:.1%}; 40 % of the entries keep {percent[1]:.1%}"


def draw(energy: Energy, name: str) -> Figure:
    """Both panels of the figure `name`, side by side over one axis of energy, marked where the paper reads them.

    For the paper's own base its readings stand there too, hollow.
    """
    labels = {
        "rank": ("top singular values R", "(a) low rank", "rank {}: {:.1%}"),
        "percent": ("entries kept (%)", "(b) sparse", "{} %: {:.1%}"),
    }
    with styled():
        drawn = figure(height=1.75)
        panels = drawn.subplots(1, 2, sharey=True)
        for axes, (panel, (label, heading, reading)) in zip(panels, labels.items(), strict=True):
            values, (x, kept) = energy[panel], readings(energy)[panel]
            axes.plot(range(1, len(values) + 1), [100 * value for value in values], color=BLUE)
            axes.plot([x, x, 0], [0, 100 * kept, 100 * kept], color=BLACK, linestyle=":", linewidth=0.7)
            axes.plot(x, 100 * kept, color=BLACK, marker="o", markersize=3)
            text = reading.format(x, kept)
            if (published := PUBLISHED.get(name, {}).get(panel)) is not None:
                axes.plot(x, 100 * published, color=BLACK, marker="o", markersize=3, markerfacecolor="white")
                text += f"\npaper: > {published:.0%}"
            axes.annotate(text, (x, 100 * kept), (4, -5), textcoords="offset points", va="top")
            axes.set(xlabel=label, title=heading, ylim=(0, 102))
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.set_xlim(left=0)
            axes.grid()
        panels[0].set_ylabel("energy kept (%)")
        panels[1].set_xticks(range(0, 101, 25))
        drawn.suptitle(title_of(name), fontsize="medium")
    return drawn


def name_of(model: str, block: int) -> str:
    """The name of the files of one figure, without suffix."""
    return f"figure2-{model}-block{block}"


def title_of(name: str) -> str:
    """The title that belongs to a name made by `name_of`."""
    return rf"$W_\mathrm{{proj}}$ of {name.removeprefix('figure2-').replace('-block', ', block ')}"


def to_csv(energy: Energy) -> str:
    """Both curves with the columns panel, x, energy."""
    points = [(panel, x, value) for panel, values in energy.items() for x, value in enumerate(values, start=1)]
    text: str = pd.DataFrame(points, columns=["panel", "x", "energy"]).to_csv(
        index=False, float_format="%.6f", lineterminator="\n"
    )
    return text


def read_csv(path: Path) -> Energy:
    """What `to_csv` wrote, to six decimals."""
    return {panel: values.tolist() for panel, values in pd.read_csv(path).groupby("panel")["energy"]}
