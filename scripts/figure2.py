"""Figure 2 of the paper: the energy of W_proj that a low-rank or a sparse approximation keeps.

    python -m scripts.figure2 --model gpt2_medium --block 0

Writes `outputs/figures/figure2-<model>-block<n>.{png,pdf,csv}`: (a) sum of the R largest squared singular values over
the sum of all, against R; (b) sum of the largest squared entries over the sum of all, against the kept percentage.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from loda.errors import LodaError
from loda.lab.config import compose
from loda.lab.files import write_text
from loda.lab.models import load_base, locate
from loda.targets import find_targets

PERCENTAGES = range(1, 101)


def energy_of_ranks(weight: Tensor) -> Tensor:
    """Kept energy for R = 1 .. min(d_in, d_out): (min(d_in, d_out),)."""
    squares: Tensor = torch.linalg.svdvals(weight.double()).square()
    return squares.cumsum(0) / squares.sum()


def energy_of_entries(weight: Tensor) -> Tensor:
    """Kept energy for 1 % .. 100 % of the entries, the largest first: (100,)."""
    squares = weight.double().square().flatten().sort(descending=True).values.cumsum(0)
    kept = torch.tensor([round(p / 100 * len(squares)) for p in PERCENTAGES]).clamp(min=1)
    return squares[kept - 1] / squares[-1]


def draw(ranks: Tensor, entries: Tensor, title: str, folder: Path, name: str) -> None:
    """Both panels as PNG and PDF."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    left.plot(range(1, len(ranks) + 1), 100 * ranks)
    left.set(xlabel="number of top singular values R", ylabel="energy kept (%)", title="(a) low rank")
    right.plot(PERCENTAGES, 100 * entries)
    right.set(xlabel="entries kept (%)", ylabel="energy kept (%)", title="(b) sparse")
    for axes in (left, right):
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "pdf"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=200)
    plt.close(figure)


def table(ranks: Tensor, entries: Tensor) -> str:
    """Both curves as CSV: panel, x, energy."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["panel", "x", "energy"])
    writer.writerows(["rank", r, f"{e:.6f}"] for r, e in enumerate(ranks.tolist(), start=1))
    writer.writerows(["percent", p, f"{e:.6f}"] for p, e in zip(PERCENTAGES, entries.tolist(), strict=True))
    return text.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.figure2", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2_medium", help="a file in configs/model")
    parser.add_argument("--path", help="local folder of the base model")
    parser.add_argument("--block", type=int, default=0, help="which Transformer block, from 0")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    arguments = parser.parse_args(argv)
    try:
        settings = [f"model={arguments.model}"] + ([f"model.path={arguments.path}"] if arguments.path else [])
        config = compose(settings).model
        targets = find_targets(load_base(config, locate(config)))
        if not 0 <= arguments.block < len(targets):
            raise LodaError(f"--block {arguments.block} is not one of 0..{len(targets) - 1} of {config.name}")
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    weight = targets[arguments.block].weight.detach()
    ranks, entries = energy_of_ranks(weight), energy_of_entries(weight)
    folder, name = arguments.outputs / "figures", f"figure2-{config.name}-block{arguments.block}"
    draw(ranks, entries, f"W_proj of {config.name}, block {arguments.block}", folder, name)
    write_text(folder / f"{name}.csv", table(ranks, entries))
    rank = round(300 / 1024 * len(ranks))  # the paper's 300 of 1024
    print(f"rank {rank} of {len(ranks)} keeps {ranks[rank - 1]:.1%}; 40 % of the entries keep {entries[39]:.1%}")
    print(f"written: {folder / name}.png, .pdf, .csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
