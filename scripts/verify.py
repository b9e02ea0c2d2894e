"""Check every stage below an outputs folder against its manifest: its place, its files, and what it was made from.

    python -m scripts verify outputs/

Names every stage that is damaged, copied or outdated, and what killed processes left behind. Nothing is changed. Exit
code 1 if anything is wrong.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from loda.atomic import PARTIAL
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.stage import all_places, verify


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts verify", description=__doc__.splitlines()[0])
    parser.add_argument("outputs", nargs="?", type=Path, default=Path("outputs"), help="folder that holds runs/")
    root = parser.parse_args(arguments).outputs
    if not root.is_dir():
        raise LodaError(f"{root} is not a folder; name the outputs folder")
    places, problems = list(all_places(root)), list[str]()
    for place in places:
        try:
            verify(root, place)
        except LodaError as error:
            problems.append(str(error))
    leftovers = sorted(root.rglob(f".*{PARTIAL}"))
    for line in [*problems, *(f"left by a killed process, of no use: {path}" for path in leftovers)]:
        print(line)
    print(f"{len(places) - len(problems)} stages are sound, {len(problems)} are not, {len(leftovers)} leftovers")
    return 1 if problems else 0


if __name__ == "__main__":
    run_command(main)
