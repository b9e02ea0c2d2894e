"""Is the difference between two runs, or two groups of seeds, more than the choice of test contexts?

    python -m scripts.compare_scores RUN [RUN ...] --against RUN [RUN ...]
    python -m scripts.compare_scores outputs/runs/*-loda-r4-dense-* --against outputs/runs/*-lora-r4-dense-*

Prints both sides for every metric, their difference with its 95 % interval, and the p-value of the paired bootstrap
over contexts (`eval/tables/bootstrap.py`). Differences whose interval leaves out 0 are marked.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.results import Record, read_record
from eval.tables.bootstrap import RESAMPLES, Interval, Resampled, check_alike
from loda.errors import LodaError
from loda.lab.run import Outputs, RunDir


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code, which differences do not change."""
    parser = argparse.ArgumentParser(prog="python -m scripts.compare_scores", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of runs, or their names in the outputs folder")
    parser.add_argument("--against", nargs="+", required=True, help="the other side, likewise")
    parser.add_argument("--split", default="test", help="which scores")
    parser.add_argument("--epoch", type=float, help="of which checkpoint; default: the last of each run")
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds runs/")
    options = parser.parse_args(argv)
    outputs = Outputs(options.outputs)
    try:
        if options.resamples < 1:
            raise LodaError(f"--resamples {options.resamples} must be at least 1; 1000 are usual")
        runs = [[outputs.find(name) for name in names] for names in (options.runs, options.against)]
        groups = [[_record(run, options.split, options.epoch) for run in side] for side in runs]
        check_alike([record for group in groups for record in group])
        ours, theirs = (Resampled(*side, options.resamples) for side in zip(groups, runs, strict=True))
        print(report(ours, theirs))
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _record(run: RunDir, split: str, epoch: float | None) -> Record:
    """The one score of a run that the options name."""
    records = [record for record in map(read_record, run.all_scores) if record.split == split]
    epochs = sorted({record.epoch for record in records})
    if not records or (epoch is not None and epoch not in epochs):
        raise LodaError(
            f"{run.name} has no scores of {split}{'' if epoch is None else f' at epoch {epoch:g}'}; "
            f"it has epochs {', '.join(f'{each:g}' for each in epochs) or 'of no checkpoint there'}"
        )
    chosen = [record for record in records if record.epoch == (epochs[-1] if epoch is None else epoch)]
    if len(chosen) > 1:
        raise LodaError(f"{run.name} was decoded or scored in several ways; name a run with one of them")
    return chosen[0]


def report(ours: Resampled, theirs: Resampled) -> str:
    """Both sides and their difference, one line for each metric."""
    rows = [["", "A", "B", "A - B", "p", ""]]
    for metric in ours.records[0].scores:
        difference = ours.minus(theirs, metric)
        sides = [_text(side.interval(metric)) for side in (ours, theirs)]
        mark = "*" if difference.is_significant else ""
        rows.append([metric, *sides, _text(difference, sign="+"), f"{difference.p:.3f}", mark])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    first = ours.records[0]
    return "\n".join(
        [
            *(f"{letter}: {_names(side)}" for letter, side in (("A", ours), ("B", theirs))),
            f"{first.contexts} contexts of {first.split}, {ours.resamples} resamples; mean over runs [95 % interval]; "
            "*: the interval of the difference leaves out 0",
            "",
            *lines,
        ]
    )


def _names(side: Resampled) -> str:
    return ", ".join(f"{record.run} (epoch {record.epoch:g})" for record in side.records)


def _text(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


if __name__ == "__main__":
    sys.exit(main())
