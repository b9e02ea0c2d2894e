"""Run a finished result again from its record, in a folder of its own, and compare every byte that counts.

    python -m scripts reproduce RUN                 or: make reproduce RUN=...
    python -m scripts reproduce outputs/runs/... --keep again

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
from eval.results import Record, collect, headline
from loda.atomic import sha256
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.config import Experiment
from loda.lab.run import Outputs, Run
from loda.settings import load

COMPARED = ("checkpoints/*/adapter_model.safetensors", "decode/*/*/*/predictions.jsonl")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the folder of a run, or its name in the outputs folder")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds runs/")
    parser.add_argument("--keep", type=Path, help="a folder for the second run, which is deleted otherwise")
    options = parser.parse_args(arguments)
    first = Outputs(options.outputs).find(options.run)
    records = _records(first)
    if not records:
        raise LodaError(f"{first} has no scores to reproduce; finish the run first")
    if options.keep and (options.keep / "runs" / first.name).exists():
        raise LodaError(f"--keep {options.keep} holds this run already; give another folder")
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as folder:
        again = repeat(records, Path(folder))
        differences = [*compare_files(first, Path(folder) / "runs" / first.name), *compare_scores(records, again)]
    lines = [*circumstances(records, again), *differences]
    print("\n".join(lines) or f"{first.name}: the same adapters, predictions and scores")
    return 1 if differences else 0


def repeat(records: Sequence[Record], outputs: Path) -> list[Record]:
    """Run the experiments of all records below `outputs`.

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
    return _records(run.path)


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


def compare_files(first: Path, second: Path) -> list[str]:
    """The adapters and predictions that differ."""
    paths = [path.relative_to(first) for pattern in COMPARED for path in sorted(first.glob(pattern))]
    return [
        f"{path} differs"
        for path in paths
        if not (second / path).is_file() or sha256(first / path) != sha256(second / path)
    ]


def compare_scores(first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    pairs = zip(first, second, strict=True)
    return [f"{headline(mine)} became {headline(theirs)}" for mine, theirs in pairs if mine.scores != theirs.scores]


if __name__ == "__main__":
    run_command(main)
