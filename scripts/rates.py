"""Choose the learning rate of each method of a table, by the loss on the validation split: no method is favoured.

    python -m scripts rates real_e2e --rows LoRA LoDA

Each trained row is run with the same three rates, which double from one to the next, for the budget of the table. While
the best is at an end, the next rate on that side is run too. Nothing is decoded. What was tried is written to
`results/rates/TABLE-PROFILE-ROW.json`, from where a search continues; the rows of the table state their rates.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.pipeline import check
from eval.tables.spec import RowSpec, overrides, read, seeds
from loda.atomic import write_text
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.config import compose
from loda.lab.lock import lock_run
from loda.lab.run import Run
from loda.lab.training.train import train
from loda.settings import read_json

RATES = (1e-3, 2e-3, 4e-3)
FACTOR = 2.0


def search(loss_of: Callable[[float], float], rates: Sequence[float] = RATES) -> float:
    """The rate with the lowest loss, which is not at an end of those that were tried."""
    losses = {rate: loss_of(rate) for rate in rates}
    while (best := min(losses, key=losses.__getitem__)) in (min(losses), max(losses)):
        rate = best / FACTOR if best == min(losses) else best * FACTOR
        losses[rate] = loss_of(rate)
    return best


def find_rate(row: RowSpec, settings: Sequence[str], path: Path) -> float:
    """Search the rate of a row; what was tried is in `path` after each training, and not tried again."""
    kept = [each for each in settings if not each.startswith("optim.lr=")]
    known = read_json(path) if path.is_file() else {}
    tried: dict[str, float] = known["losses"] if known.get("settings") == kept else {}

    def loss_of(rate: float) -> float:
        if f"{rate:g}" not in tried:
            tried[f"{rate:g}"] = validation_loss_of([*kept, f"optim.lr={rate:g}"])
            write_text(path, json.dumps(found | {"losses": tried}, indent=2) + "\n")
        print(f"{row.label} {row.approx}: optim.lr={rate:g} has the loss {tried[f'{rate:g}']:.4f}", flush=True)
        return tried[f"{rate:g}"]

    found: dict[str, Any] = {"row": row.label, "approx": row.approx, "settings": kept}
    best = search(loss_of)
    write_text(path, json.dumps(found | {"losses": tried, "best": best}, indent=2) + "\n")
    return best


def validation_loss_of(settings: Sequence[str]) -> float:
    """Train, without decoding, and return the loss on the validation split."""
    run = Run(compose(settings))
    if run.experiment.trainer.valid_examples == 0:
        raise LodaError("trainer.valid_examples=0 leaves nothing to choose a rate by; set it to 1 or more, or to null")
    inputs = check(run)
    with lock_run(run.path, True):
        train(run, inputs.base, inputs.examples, inputs.validation)
    return float(run.checkpoint(run.checkpoints[-1]).load().content["valid_loss"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts rates", description=__doc__.splitlines()[0])
    parser.add_argument("table", help="file in configs/table, such as real_e2e")
    parser.add_argument("settings", nargs="*", help="overrides for all runs, such as dataset.path=FOLDER")
    parser.add_argument("--profile", default="small", help="a profile of the table")
    parser.add_argument("--rows", nargs="+", help="labels of rows; default: all that are trained")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")
    options = parser.parse_intermixed_args(arguments)
    spec = read(options.table)
    profile = spec.profile(options.profile)
    for row in spec.rows_of(options.rows):
        if not row.trained:
            continue
        own = [f"seed={seeds(row, profile)[0]}", *options.settings]
        name = f"{row.label} {row.approx}".removesuffix(" No") + (f" r{row.r}" if row.r else "")
        name = f"{spec.name} {options.profile} {name}".replace(" ", "-").replace(",", "")
        path = options.results / "rates" / f"{name}.json"
        print(f"{path}: optim.lr={find_rate(row, [*overrides(row, profile), *own], path):g}")
    return 0


if __name__ == "__main__":
    run_command(main)
