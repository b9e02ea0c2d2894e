"""Print one of the paper's tables, filled with our runs, and rewrite it as `outputs/tables/NAME.{md,tex,csv,json}`.

    python -m eval.table table1 --format md
    python -m eval.table table1 --against LoRA

Nothing is trained: what is missing is '-', and the commands that fill it are listed. Intervals are over other test
contexts (bootstrap) and, for rows of several seeds, other seeds (Student's t). `--against` draws the differences as
`outputs/figures/NAME-PROFILE-against-ROW.{png,pdf}` too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.figures import differences
from eval.figures.style import save
from eval.tables.bootstrap import with_intervals
from eval.tables.fill import build
from eval.tables.render import FORMATS, write
from loda.lab.command_line import run_command
from loda.lab.run import Outputs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.table", description=__doc__.splitlines()[0])
    parser.add_argument("table", help="file in configs/table, such as table1")
    parser.add_argument("--format", choices=FORMATS, default="md")
    parser.add_argument("--profile", default="auto", help="auto, or a profile of the table")
    parser.add_argument("--outputs", default="outputs", help="folder that holds runs/")
    parser.add_argument("--intervals", action="store_true", help="with the interval of every value")
    parser.add_argument("--against", metavar="ROW", help="with the difference to this row, as LoRA, and its interval")
    parser.add_argument("settings", nargs="*", help="overrides all runs were started with, such as model.path=FOLDER")
    options = parser.parse_intermixed_args(arguments)
    table = build(options.table, options.profile, options.outputs, options.settings)
    if options.intervals or options.against:
        table = with_intervals(table, options.outputs, options.against)
    if (drawn := differences.draw(table)) is not None:
        name, folder = differences.name_of(table), Outputs(Path(options.outputs)).figures
        save(drawn, folder, name)
        print(f"written: {folder / name}.png, .pdf", file=sys.stderr)  # the table goes to stdout
    write(table, options.outputs)
    sys.stdout.write(FORMATS[options.format](table))
    return 0


if __name__ == "__main__":
    run_command(main)
