"""What every command line shares: one sentence and exit code 2 for a user's error, 75 for an interruption."""

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from loda.errors import LodaError
from loda.lab.interrupt import REQUEUE, listening


class Printed:
    """A stream for people. That its reader is gone or its disk is full does not end the work: the text is lost."""

    def __init__(self, stream: TextIO | None) -> None:
        # None where the shell closed it, with >&-
        self._stream = Path(os.devnull).open("w") if stream is None else stream  # noqa: SIM115
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        with self._lossy():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._lossy():
            self._stream.flush()

    @contextmanager
    def _lossy(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_command(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Run a command with the arguments of the process, and exit with its code, or 1 if its output was lost.

    A character that the terminal does not know is printed as a question mark.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    output = Printed(sys.stdout)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, Printed(sys.stderr))
    try:
        with listening():
            code = main(None)
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as signal:
        print(f"stopped by {signal or 'Ctrl-C'}; the same command continues from here", file=sys.stderr)
        code = REQUEUE
    output.flush()
    if output.error is not None and output.error.errno != errno.EPIPE:  # as of `| head`, which has read enough
        print(f"error: what was printed is lost ({output.error.strerror}); all else was done", file=sys.stderr)
        code = code or 1
    sys.exit(code)
