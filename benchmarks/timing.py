"""Timing variants in turns (A B A B), so that a busy machine slows all alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
Step = Callable[[], Any]
"""Does the work once. A float that it returns is its duration, where it knows better than the clock around it."""
Row = dict[str, Any]


@dataclass
class Timing:
    seconds: list[float] = field(default_factory=list)
    result: Any = None

    @property
    def median(self) -> float:
        return median(self.seconds)


def take_turns(steps: Mapping[Key, Step], repeats: int, warm_up: int = 1) -> dict[Key, Timing]:
    """Time every step `repeats` times, after `warm_up` turns that do not count."""
    timings = {key: Timing() for key in steps}
    for turn in range(-warm_up, repeats):
        for key, step in steps.items():
            _synchronize()
            started = time.perf_counter()
            timings[key].result = result = step()
            _synchronize()
            elapsed = time.perf_counter() - started
            if turn >= 0:
                timings[key].seconds.append(result if isinstance(result, float) else elapsed)
    return timings


def compare(timings: Mapping[str, Timing], baseline: str, units: int = 1) -> list[Row]:
    """A row for each variant: seconds per unit of work, and over those of the baseline, turn by turn."""
    rows = []
    for name, timing in timings.items():
        ratio = median(a / b for a, b in zip(timing.seconds, timings[baseline].seconds, strict=True))
        repeats = [seconds / units for seconds in timing.seconds]
        rows.append({"name": name, "seconds": median(repeats), f"over {baseline}": ratio, "repeats": repeats})
    return rows


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
