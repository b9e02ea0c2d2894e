"""Figure 2 of the paper: the energy of W_proj that a low-rank or a sparse approximation keeps.

    python -m scripts figure2 --model gpt2_medium --block 0

Writes `outputs/figures/figure2-<model>-block<n>.{png,pdf,csv}`; the report shows every such figure.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from eval.figures.energy import draw, kept_energy, name_of, summary, to_csv
from eval.figures.style import save
from loda.atomic import write_text
from loda.errors import LodaError
from loda.lab.base.files import locate
from loda.lab.base.model import load_base
from loda.lab.command_line import run_command
from loda.lab.config import compose
from loda.lab.run import Outputs
from loda.targets import find_targets


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts figure2", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2_medium", help="a file in configs/model")
    parser.add_argument("--block", type=int, default=0, help="which Transformer block, from 0")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("settings", nargs="*", help="overrides, such as model.path=FOLDER for a local base")
    options = parser.parse_intermixed_args(arguments)
    config = compose([f"model={options.model}", *options.settings]).model
    weights = projections_of_blocks(load_base(config, locate(config)))
    if not 0 <= options.block < len(weights):
        raise LodaError(f"--block {options.block} is not one of 0..{len(weights) - 1} of {config.name}")
    energy = kept_energy(weights[options.block])
    folder, name = Outputs(options.outputs).figures, name_of(config.name, options.block)
    write_text(folder / f"{name}.csv", to_csv(energy))
    save(draw(energy, name), folder, name)
    print(summary(energy))
    print(f"written: {folder / name}.png, .pdf, .csv")
    return 0


def projections_of_blocks(model: nn.Module) -> list[Tensor]:
    """W_proj = [W_q, W_k, W_v] of each block (d_in, d_out), which the base holds as one module or as three."""
    parts: dict[str, list[Tensor]] = {}
    for target in find_targets(model):
        parts.setdefault(target.group, []).append(target.weight.detach())
    return [torch.cat(weights, dim=1) for weights in parts.values()]


if __name__ == "__main__":
    run_command(main)
