"""Check every stage below an outputs folder against its manifest: its place, its files, and what it was made from.

    python -m scripts verify outputs/
    python -m scripts verify results/         the records that are kept in the repository

Scores are computed again from the statistics that are kept beside them. Names every stage that is damaged, copied or
outdated, and what killed processes left behind. Nothing is changed. Exit code 1 if anything is wrong.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from eval.results import check_scores, read_kept, read_record
from loda.atomic import PARTIAL
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.stage import all_places, read_stage, verify


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts verify", description=__doc__.splitlines()[0])
    parser.add_argument("outputs", nargs="?", type=Path, default=Path("outputs"), help="folder that holds runs/")
    root = parser.parse_args(arguments).outputs
    if not root.is_dir():
        raise LodaError(f"{root} is not a folder; name the outputs folder")
    places, kept, problems = list(all_places(root)), sorted(root.glob("*.json")), list[str]()
    for thing in [*places, *kept]:
        try:
            _verify(root, thing)
        except LodaError as error:
            problems.append(str(error))
    leftovers = sorted(root.rglob(f".*{PARTIAL}"))
    for line in [*problems, *(f"left by a killed process, of no use: {path}" for path in leftovers)]:
        print(line)
    sound = len(places) + len(kept) - len(problems)
    print(f"{sound} stages are sound, {len(problems)} are not, {len(leftovers)} leftovers")
    return 1 if problems else 0


def _verify(root: Path, thing: str | Path) -> None:
    if isinstance(thing, Path):
        check_scores(root, read_kept(thing))
        return
    verify(root, thing)
    manifest = read_stage(root, thing)
    if manifest.stage == "scoring":
        check_scores(root, read_record(root, manifest))


if __name__ == "__main__":
    run_command(main)
