"""Write `outputs/report.html`: all tables, figures, losses, scores and where they come from, in one file.

    python -m scripts report
    python -m scripts report --profile toy --table table3 --against LoDA

Nothing is trained: a missing cell shows the command that fills it. The figures go to `outputs/figures` as well.
"""

import argparse
from collections.abc import Sequence

from eval.report import write
from eval.tables.spec import names, read
from loda.lab.command_line import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--table", action="append", help="file in configs/table; may be repeated; default: all of the profile"
    )
    parser.add_argument("--profile", default="auto", help="auto, or a profile of all these tables")
    parser.add_argument("--against", default="LoRA", metavar="ROW", help="the row that others are compared with")
    parser.add_argument("--outputs", default="outputs", help="folder that holds runs/")
    parser.add_argument("settings", nargs="*", help="overrides all runs were started with, such as model.path=FOLDER")
    options = parser.parse_intermixed_args(arguments)
    tables = options.table or [name for name in names() if options.profile in ("auto", *read(name).profiles)]
    path = write(tables, options.profile, options.outputs, options.settings, options.against)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
