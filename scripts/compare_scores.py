"""Is the difference between two runs, or two groups of seeds, more than chance?

    python -m scripts compare RUN [RUN ...] --against RUN [RUN ...]
    python -m scripts compare outputs/runs/*-loda-r4-dense-* --against outputs/runs/*-lora-r4-dense-*

Prints both sides for every metric, their difference with its 95 % interval, and its p-value. The interval is over other
test contexts (paired bootstrap) and other seeds (Student's t); a side of one run has no other seeds, and the interval
understates the uncertainty. Differences whose interval leaves out 0 are marked.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from eval.results import Record, collect, read_statistics
from eval.tables.bootstrap import Side, compare
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.run import Outputs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts compare", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of runs, or their names in the outputs folder")
    parser.add_argument("--against", nargs="+", required=True, help="the other side, likewise")
    parser.add_argument("--split", default="test", help="which scores")
    parser.add_argument("--epoch", type=float, help="of which checkpoint; default: the last of each run")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds runs/")
    options = parser.parse_args(arguments)
    outputs, records = Outputs(options.outputs), collect(options.outputs)
    sides = []
    for names in (options.runs, options.against):
        chosen = [_choose(outputs, name, records, options.split, options.epoch) for name in names]
        sides.append(Side(chosen, [read_statistics(options.outputs, record) for record in chosen]))
    print(compare(*sides))
    return 0


def _choose(outputs: Outputs, name: str, records: Sequence[Record], split: str, epoch: float | None) -> Record:
    """The one score of a run that the options name."""
    run = outputs.find(name).name
    scored = [record for record in records if record.run == run and record.split == split]
    epochs = sorted({record.epoch for record in scored})
    if not scored or (epoch is not None and epoch not in epochs):
        raise LodaError(
            f"{run} has no scores of {split}{'' if epoch is None else f' at epoch {epoch:g}'}; "
            f"its epochs there: {', '.join(f'{each:g}' for each in epochs) or 'none on this split'}"
        )
    chosen = [record for record in scored if record.epoch == (epochs[-1] if epoch is None else epoch)]
    if len(chosen) > 1:
        raise LodaError(f"{run} was decoded or scored in several ways; name a run with one of them")
    return chosen[0]


if __name__ == "__main__":
    run_command(main)
