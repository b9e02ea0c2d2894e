"""What every command line shares: one sentence and exit code 2 for a user's error, 75 for an interruption."""

import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import NoReturn

from loda.errors import LodaError
from loda.lab.interrupt import REQUEUE


def run_command(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Run a command with the arguments of the process, and exit with its code.

    A character that the terminal does not know is printed as a question mark.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        sys.exit(main(None))
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as signal:
        print(f"stopped by {signal or 'Ctrl-C'}; the same command continues from here", file=sys.stderr)
        sys.exit(REQUEUE)
