"""Run a finished result again from its record, in a folder of its own, and compare every byte that counts.

    python -m scripts.reproduce RUN                 or: make reproduce RUN=...
    python -m scripts.reproduce outputs/runs/... --keep again

Compared are the adapters, the predictions and the scores. On the same machine with the same number of threads and the
same versions they are the same bytes; what else differs between the two records (versions, device, threads) is listed
first. Exit code 1 if something is not the same.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from eval.completion import headline
from eval.results import Record, read_record
from loda.atomic import sha256
from loda.errors import LodaError
from loda.lab.config import restore
from loda.lab.run import Outputs, RunDir


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the folder of a run, or its name in the outputs folder")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds runs/")
    parser.add_argument("--keep", type=Path, help="a folder for the second run, which is deleted otherwise")
    options = parser.parse_args(arguments)
    try:
        first = Outputs(options.outputs).find(options.run)
        with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as folder:
            second = repeat(first, Path(folder))
            told = [*circumstances(first, second), *(differences := compare(first, second))]
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(told) or f"{first.name}: the same adapters, predictions and scores")
    return 1 if differences else 0


def repeat(run: RunDir, outputs: Path) -> RunDir:
    """Run each of a run's experiments, as its records have them, below `outputs`.

    Raises:
        LodaError: a record of another version, or settings that no longer lead to a run of this name.
    """
    from eval.pipeline import run_experiment  # heavy, and not before the run is known to be there

    again = Outputs(outputs).run_named(run.name)
    for record in map(read_record, run.all_scores):
        experiment = replace(restore(record.settings), outputs=str(outputs))
        name = Outputs(outputs).run(experiment).name
        if name != run.name:
            raise LodaError(
                f"the settings of {run.name} make {name} today: the data, the base or PROTOCOL changed; "
                "reproduce it with the commit that its record names"
            )
        run_experiment(experiment)
    return again


def circumstances(first: RunDir, second: RunDir) -> list[str]:
    """What differs between the two records besides the results, and may explain that they do."""
    pairs = zip(*(map(_origins, map(read_record, run.all_scores)) for run in (first, second)), strict=True)
    lines = {
        f"{stage}: {key} was {value}, is {theirs[stage].get(key)}": None
        for mine, theirs in pairs
        for stage, facts in mine.items()
        for key, value in facts.items()
        if theirs[stage].get(key) != value
    }
    return list(lines)


def _origins(record: Record) -> dict[str, dict[str, object]]:
    passing = ("seconds", "finished")
    return {
        stage: {key: value for key, value in facts.items() if key not in passing}
        for stage, facts in record.provenance.items()
    }


def compare(first: RunDir, second: RunDir) -> list[str]:
    """The adapters, predictions and scores that are not the same."""
    found = []
    for pattern in ("checkpoints/*/adapter_model.safetensors", "decode/*/*/*/predictions.jsonl"):
        for path in sorted(first.path.glob(pattern)):
            name = path.relative_to(first.path)
            if not (second.path / name).is_file() or sha256(path) != sha256(second.path / name):
                found.append(f"{name} is another")
    for path in first.all_scores:
        mine, theirs = read_record(path), read_record(second.path / path.relative_to(first.path))
        if mine.scores != theirs.scores:
            found.append(f"{headline(mine)} became {headline(theirs)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
