"""Write `outputs/report.html`: all tables, figures, losses, scores and where they come from, in one file.

    python -m scripts.report
    python -m scripts.report --profile toy --table table3

Nothing is trained: a missing cell shows the command that fills it. The figures go to `outputs/figures` as well, as PNG
and PDF. Figure 2 is shown for every base and block that `scripts.figure2` was run for.
"""

import argparse
import sys
from collections.abc import Sequence

from eval.report import write
from eval.tables.spec import names
from loda.errors import LodaError


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="append", help="file in configs/table; may be repeated; default: all")
    parser.add_argument("--profile", default="auto", help="auto, or a profile of all these tables")
    parser.add_argument("--outputs", default="outputs", help="folder that holds runs/")
    parser.add_argument("settings", nargs="*", help="overrides all runs were started with, such as model.path=FOLDER")
    arguments = parser.parse_intermixed_args(argv)
    try:
        written = write(arguments.table or names(), arguments.profile, arguments.outputs, arguments.settings)
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
