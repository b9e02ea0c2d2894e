"""`python -m eval.table table1 --format md`: one of the paper's tables, filled with our runs.

Prints the table, and rewrites it as `outputs/tables/table1.{md,tex,csv,json}` from the `scores.json` of all runs.
Nothing is trained: what is missing is '-', and the commands that fill it are listed. `--intervals` adds between which
bounds each value lies over resampled test contexts, `--against LoRA` does so for its difference to that row's.
"""

import argparse
import sys
from pathlib import Path

from eval.tables.fill import TableData, build
from eval.tables.intervals import with_intervals
from eval.tables.render import FORMATS
from loda.atomic import write_text
from loda.errors import LodaError
from loda.lab.run import Outputs

WRITTEN = ("md", "tex", "csv", "json")


def write(table: TableData, outputs: str | Path = "outputs") -> list[Path]:
    """Write `tables/<name>.{md,tex,csv,json}` below `outputs`, each atomically; returns the paths."""
    folder = Outputs(Path(outputs)).tables
    paths = [folder / f"{table.spec.name}.{suffix}" for suffix in WRITTEN]
    for path, suffix in zip(paths, WRITTEN, strict=True):
        write_text(path, FORMATS[suffix](table))
    return paths


def main() -> None:
    """Command line; a mistake of the user is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m eval.table", description=__doc__)
    parser.add_argument("table", help="file in configs/table, such as table1")
    parser.add_argument("--format", choices=FORMATS, default="md")
    parser.add_argument("--profile", default="auto", help="auto, or a profile of the table")
    parser.add_argument("--outputs", default="outputs", help="folder that holds runs/")
    parser.add_argument("--intervals", action="store_true", help="with the interval of every value over test contexts")
    parser.add_argument("--against", metavar="ROW", help="with the difference to this row and its interval, as LoRA")
    parser.add_argument("settings", nargs="*", help="overrides all runs were started with, such as model.path=FOLDER")
    arguments = parser.parse_intermixed_args()
    try:
        table = build(arguments.table, arguments.profile, arguments.outputs, arguments.settings)
        if arguments.intervals or arguments.against:
            table = with_intervals(table, arguments.outputs, arguments.against)
    except LodaError as error:
        parser.exit(2, f"error: {error}\n")
    sys.stdout.write(FORMATS[arguments.format](table))
    write(table, arguments.outputs)


if __name__ == "__main__":
    main()
