"""Choose the learning rate of each method of a table, by the loss on the validation split: no method is favoured.

    python -m scripts rates real_e2e --rows LoRA LoDA

Each trained row is run with the same three rates, which double from one to the next, for a few hundred updates. While
the best is at an end, the next rate on that side is run too. Nothing is decoded. What was found is written to
`results/rates/TABLE-ROW.json`; the rows of the table state their rates themselves.
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
from loda.lab.interrupt import listening
from loda.lab.lock import lock_run
from loda.lab.run import Run
from loda.lab.training.train import train

STEPS = 300
RATES = (1e-3, 2e-3, 4e-3)
FACTOR = 2.0


def search(loss_of: Callable[[float], float], rates: Sequence[float] = RATES) -> dict[float, float]:
    """The loss of every rate that was tried, in the order of the rates; the best is not at an end."""
    found = {rate: loss_of(rate) for rate in rates}
    while (best := min(found, key=found.__getitem__)) in (min(found), max(found)):
        rate = best / FACTOR if best == min(found) else best * FACTOR
        found[rate] = loss_of(rate)
    return dict(sorted(found.items()))


def loss_of(arguments: Sequence[str]) -> tuple[str, float]:
    """Train without decoding; the name of the run, and its loss on the validation split."""
    run = Run(compose(arguments))
    inputs = check(run)
    with lock_run(run.path, True):
        train(run, inputs.base, inputs.examples, inputs.validation)
    content = run.checkpoint(run.checkpoints[-1]).load().content
    if not content:
        raise LodaError("trainer.valid_examples=0 leaves nothing to choose a rate by; set it to 1 or more, or to null")
    return run.name, content["valid_loss"]


def find_rate(row: RowSpec, arguments: Sequence[str], steps: int) -> dict[str, Any]:
    """What was tried for a row, and the best of it."""
    kept = [each for each in arguments if not each.startswith("optim.lr=")]
    runs = {}

    def one(rate: float) -> float:
        name, loss = loss_of([*kept, f"trainer.max_steps={steps}", f"optim.lr={rate:g}"])
        runs[f"{rate:g}"] = name
        print(f"{row.label} {row.approx}: optim.lr={rate:g} has the loss {loss:.4f}", flush=True)
        return loss

    found = search(one)
    best = min(found, key=found.__getitem__)
    losses = {f"{rate:g}": loss for rate, loss in found.items()}
    return {
        "row": row.label,
        "approx": row.approx,
        "settings": kept,
        "steps": steps,
        "best": best,
        "losses": losses,
    } | {"runs": runs}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts rates", description=__doc__.splitlines()[0])
    parser.add_argument("table", help="file in configs/table, such as real_e2e")
    parser.add_argument("settings", nargs="*", help="overrides for all runs, such as dataset.path=FOLDER")
    parser.add_argument("--profile", default="small", help="a profile of the table")
    parser.add_argument("--rows", nargs="+", help="labels of rows; default: all that are trained")
    parser.add_argument("--steps", type=int, default=STEPS, help="updates of each training")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")
    options = parser.parse_intermixed_args(arguments)
    spec = read(options.table)
    profile = spec.profile(options.profile)
    with listening():
        for row in spec.rows:
            if not row.trained or (options.rows and row.label not in options.rows):
                continue
            given = [*overrides(row, profile, options.settings), f"seed={seeds(row, profile)[0]}"]
            found = find_rate(row, given, options.steps)
            name = f"{row.label} {row.approx}".removesuffix(" No").replace(" ", "-").replace(",", "")
            write_text(options.results / "rates" / f"{spec.name}-{name}.json", json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)
