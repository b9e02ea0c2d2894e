"""Progress bars: one for each stage, with rate and remaining time."""

from typing import Any

from tqdm import tqdm

from loda.lab.processes import is_main_process


def progress_bar(stage: str, total: int, unit: str, size: int = 1) -> "tqdm[Any]":
    """A bar that counts to `total`; each count stands for `size` units."""
    return tqdm(
        total=total,
        desc=stage,
        unit=unit,
        unit_scale=size if size > 1 else False,  # tqdm takes 1 for True: rounded numbers
        mininterval=0.5,
        dynamic_ncols=True,
        disable=not is_main_process(),
    )
