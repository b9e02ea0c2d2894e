"""Progress bars: one for each stage, with rate and remaining time."""

from typing import Any

from tqdm import tqdm

from loda.lab.processes import is_main_process

screen: dict[str, Any] = {}
"""Arguments of tqdm for this process: one of several runs at a time has a label and a line of the screen."""


def progress_bar(stage: str, total: int, unit: str, size: int = 1) -> "tqdm[Any]":
    """A bar that counts to `total`; each count stands for `size` units."""
    options = {"leave": True, "disable": not is_main_process(), **screen}
    label = options.pop("label", "")
    return tqdm(
        total=total,
        desc=f"{label} {stage}".strip(),
        unit=unit,
        unit_scale=size if size > 1 else False,  # tqdm takes 1 for True: rounded numbers
        mininterval=0.5,
        dynamic_ncols=True,
        **options,
    )
