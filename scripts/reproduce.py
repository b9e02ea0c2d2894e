"""Run a finished result again from its record, in a folder of its own, and compare every byte that counts.

    python -m scripts reproduce RUN                 or: make reproduce RUN=...
    python -m scripts reproduce outputs/runs/... --keep again
    python -m scripts reproduce results/....json         a record of the repository

Compared are the adapters, the predictions and the scores. On the same machine with the same number of threads and the
same versions they are the same bytes; other differences between the two records (versions, device, threads) are listed
first. Exit code 1 if something differs.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from eval.pipeline import complete
from eval.results import Record, collect, headline, read_kept
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.config import Experiment
from loda.lab.run import Outputs, Run
from loda.settings import load

COMPARED = ("adapter", "predictions")
"""Hashes of the record."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the folder of a run, its name in the outputs folder, or a kept record")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds runs/")
    parser.add_argument("--keep", type=Path, help="a folder for the second run, which is deleted otherwise")
    options = parser.parse_args(arguments)
    records = _first(options.run, options.outputs)
    name = records[0].run
    if options.keep and (options.keep / "runs" / name).exists():
        raise LodaError(f"--keep {options.keep} holds this run already; give another folder")
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as folder:
        again = repeat(records, Path(folder))
    differences = compare(records, again)
    lines = [*circumstances(records, again), *differences]
    print("\n".join(lines) or f"{name}: the same adapters, predictions and scores")
    return 1 if differences else 0


def _first(run: str, outputs: Path) -> list[Record]:
    """The records to reproduce."""
    if run.endswith(".json"):
        return [read_kept(Path(run))]
    folder = Outputs(outputs).find(run)
    records = _records(folder)
    if not records:
        raise LodaError(f"{folder} has no scores to reproduce; finish the run first")
    return records


def repeat(records: Sequence[Record], outputs: Path) -> list[Record]:
    """Run the experiments of all records below `outputs`, and return what they scored this time.

    Raises:
        LodaError: settings that no longer lead to a run of this name.
    """
    for record in records:
        run = Run(replace(load(Experiment, record.settings), outputs=str(outputs)))
        if run.name != record.run:
            raise LodaError(
                f"the settings of {record.run} make {run.name} today: the data, the base or RESULTS_VERSION changed; "
                "reproduce it with the commit that its record names"
            )
        complete(run)
    scored = {_key(record): record for record in _records(run.path)}
    return [scored[_key(record)] for record in records]


def _key(record: Record) -> tuple[str, str, str, str]:
    return record.checkpoint, record.split, record.scorer, record.hashes["decode"]


def _records(run: Path) -> list[Record]:
    return [record for record in collect(run.parents[1]) if record.run == run.name]


def circumstances(first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    """Differences between the records besides the results, which may explain them."""
    lines = [
        f"{stage}: {key} was {value}, is {theirs.provenance[stage].get(key)}"
        for mine, theirs in zip(first, second, strict=True)
        for stage, facts in mine.provenance.items()
        for key, value in facts.items()
        if key not in ("seconds", "finished") and theirs.provenance[stage].get(key) != value
    ]
    return list(dict.fromkeys(lines))


def compare(first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    """The adapters, predictions and scores that differ."""
    lines = []
    for mine, theirs in zip(first, second, strict=True):
        lines += [
            f"the {name} of {mine.checkpoint} differ{'s' if name == 'adapter' else ''}"
            for name in COMPARED
            if mine.hashes.get(name) != theirs.hashes.get(name)
        ]
        lines += [f"{headline(mine)} became {headline(theirs)}"] if mine.scores != theirs.scores else []
    return lines


if __name__ == "__main__":
    run_command(main)
