"""Figure 2 of the paper: the energy of W_proj that a low-rank or a sparse approximation keeps.

(a) sum of the R largest squared singular values over the sum of all, against R; (b) sum of the largest squared entries
over the sum of all, against the percentage kept.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from eval.figures.style import BLUE, figure, styled
from loda.errors import LodaError

PERCENTAGES = range(1, 101)


@dataclass(frozen=True)
class Energy:
    """Both curves as fractions of the energy: `ranks[R - 1]` for R = 1 ..., `entries[p - 1]` for p = 1 .. 100 %."""

    ranks: list[float]
    entries: list[float]


def kept_energy(weight: Tensor) -> Energy:
    """Both curves of a weight (d_in, d_out), computed in float64."""
    singular = torch.linalg.svdvals(weight.double()).square().cumsum(0)
    entries = weight.double().square().flatten().sort(descending=True).values.cumsum(0)
    kept = torch.tensor([round(p / 100 * len(entries)) for p in PERCENTAGES]).clamp(min=1)
    return Energy((singular / singular[-1]).tolist(), (entries[kept - 1] / entries[-1]).tolist())


def summary(energy: Energy) -> str:
    """What the paper reads off its figure: the energy at 300 of 1024 singular values and at 40 % of the entries."""
    rank = round(300 / 1024 * len(energy.ranks))
    kept = energy.ranks[rank - 1]
    return f"rank {rank} of {len(energy.ranks)} keeps {kept:.1%}; 40 % of the entries keep {energy.entries[39]:.1%}"


def draw(energy: Energy, title: str) -> Figure:
    """Both panels, side by side over one axis of energy."""
    with styled():
        drawn = figure(height=1.75)
        left, right = drawn.subplots(1, 2, sharey=True)
        left.plot(range(1, len(energy.ranks) + 1), [100 * value for value in energy.ranks], color=BLUE)
        left.set(xlabel="top singular values R", ylabel="energy kept (%)", ylim=(0, 102), title="(a) low rank")
        left.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        right.plot(PERCENTAGES, [100 * value for value in energy.entries], color=BLUE)
        right.set(xlabel="entries kept (%)", xticks=range(0, 101, 25), title="(b) sparse")
        for axes in (left, right):
            axes.set_xlim(left=0)
            axes.grid()
        drawn.suptitle(title, fontsize="medium")
    return drawn


def name_of(model: str, block: int) -> str:
    """The name of the files of one figure, without suffix."""
    return f"figure2-{model}-block{block}"


def title_of(name: str) -> str:
    """The title that belongs to a name made by `name_of`."""
    return rf"$W_\mathrm{{proj}}$ of {name.removeprefix('figure2-').replace('-block', ', block ')}"


def to_csv(energy: Energy) -> str:
    """Both curves as CSV: panel, x, energy."""
    panels = [("rank", r, value) for r, value in enumerate(energy.ranks, start=1)]
    panels += [("percent", p, value) for p, value in zip(PERCENTAGES, energy.entries, strict=True)]
    text: str = pd.DataFrame(panels, columns=["panel", "x", "energy"]).to_csv(
        index=False, float_format="%.6f", lineterminator="\n"
    )
    return text


def read_csv(path: Path) -> Energy:
    """What `to_csv` wrote, to six decimals.

    Raises:
        LodaError: the file holds something else.
    """
    try:
        energies = pd.read_csv(path).set_index("panel")["energy"].astype(float)
        return Energy(energies.loc[["rank"]].tolist(), energies.loc[["percent"]].tolist())
    except (KeyError, ValueError) as error:
        raise LodaError(
            f"{path} does not hold the curves of Figure 2 ({error}); delete it and run figure2 again"
        ) from error
