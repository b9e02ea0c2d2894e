"""Check every stage below an outputs folder against its manifest: its place, its files, and what it was made from.

    python -m scripts verify outputs/
    python -m scripts verify results/         the records that are kept in the repository

Scores are computed again from the statistics that are kept beside them. Names every stage that is damaged, copied or
outdated, and what killed processes left behind. Nothing is changed. Exit code 1 if anything is wrong.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from eval.results import check_scores, read_kept, read_record
from loda.atomic import PARTIAL
from loda.errors import LodaError, describe
from loda.lab.command_line import run_command
from loda.lab.stage import all_places, read_stage, verify


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts verify", description=__doc__.splitlines()[0])
    parser.add_argument("outputs", nargs="?", type=Path, default=Path("outputs"), help="folder that holds runs/")
    root = parser.parse_args(arguments).outputs
    if not root.is_dir():
        raise LodaError(f"{root} is not a folder; name the outputs folder")
    stages = [partial(_verify_stage, root, place) for place in all_places(root)]
    records = [partial(_verify_record, root, path) for path in sorted(root.glob("*.json"))]
    problems = [problem for check in (*stages, *records) if (problem := _problem(check))]
    leftovers = sorted(root.rglob(f".*{PARTIAL}"))
    for line in [*problems, *(f"left by a killed process, of no use: {path}" for path in leftovers)]:
        print(line)
    sound = len(stages) + len(records) - len(problems)
    print(f"{sound} stages and records are sound, {len(problems)} are not, {len(leftovers)} leftovers")
    return 1 if problems else 0


def _verify_stage(root: Path, place: str) -> None:
    verify(root, place)
    manifest = read_stage(root, place)
    if manifest.stage == "scoring":
        record = read_record(root, manifest)
        check_scores(root, record)
        kept = read_stage(root, f"runs/{record.run}/checkpoints/{record.checkpoint}").content
        if record.scores.get("LOSS") != kept.get("valid_loss"):
            raise LodaError(f"{root / place}: LOSS is not that of its checkpoint; delete the folder and score again")


def _verify_record(root: Path, path: Path) -> None:
    check_scores(root, read_kept(path))


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Exception as error:  # of one artefact, which must not hide what is wrong with the others
        return describe(error)
    return None


if __name__ == "__main__":
    run_command(main)
