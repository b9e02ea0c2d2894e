"""Progress bars of a run: where they stand on the screen and what stands before them.

Several runs at a time share one terminal: each process gets a line of its own, below the bar that counts the runs.
"""

from dataclasses import dataclass
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Bars:
    """How a run shows its progress.

    Attributes:
        label: what is being run, before the name of the stage; "" for a run on its own.
        line: line of the screen, counted downwards; null for the current one.
        only_on_terminal: show nothing where the output goes to a file.
        hidden: show nothing at all.
    """

    label: str = ""
    line: int | None = None
    only_on_terminal: bool = False
    hidden: bool = False

    def bar(self, stage: str, total: int, unit: str, size: int = 1) -> "tqdm[Any]":
        """A bar that counts to `total`, with rate and remaining time; each count stands for `size` units."""
        return tqdm(
            total=total,
            desc=f"{self.label} {stage}".strip(),
            unit=unit,
            unit_scale=size if size > 1 else False,  # 1 would be taken for True: round numbers, 13.0 of 24.0
            position=self.line,
            leave=self.line is None,
            mininterval=0.5,
            dynamic_ncols=True,
            disable=True if self.hidden else None if self.only_on_terminal else False,
        )


ONE_RUN = Bars()
"""A run that has the screen to itself."""
HIDDEN = Bars(hidden=True)
"""One of several processes that share a run, but for the first."""
