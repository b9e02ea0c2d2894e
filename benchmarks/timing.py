"""Timing variants in turns, in this process or each in a process of its own, whose peak memory is then its own."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
Step = Callable[[], float | None]
"""Does the work once; returns the seconds where it knows better than the clock around it."""


@dataclass(frozen=True)
class Prepared:
    """A variant that is ready to be timed: its step, how many units of work that does, and figures to report beside."""

    step: Step
    units: int = 1
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Timing:
    """The repeats of one variant in seconds, its peak memory where it had a process to itself, and other figures."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The middle of the repeats."""
        return median(self.seconds)


def clock(step: Step) -> float:
    """Seconds of one step, the work on a GPU included."""
    _synchronise()
    started = time.perf_counter()
    known = step()
    _synchronise()
    return time.perf_counter() - started if known is None else known


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of one piece of work, and what it returns."""
    found: list[Result] = []
    seconds = clock(lambda: found.append(work()))
    return seconds, found[0]


def interleave(steps: Mapping[str, Step], repeats: int, warm_up: int = 1) -> dict[str, Timing]:
    """Time the variants in turns in this process."""
    timings = {name: Timing() for name in steps}
    for turn in range(-warm_up, repeats):
        for name, step in steps.items():
            seconds = clock(step)
            if turn >= 0:
                timings[name].seconds.append(seconds)
    return timings


def interleave_processes(
    builders: Mapping[str, Callable[[], Prepared]], repeats: int, warm_up: Mapping[str, int]
) -> dict[str, Timing]:
    """Time the variants in turns, each in a process of its own.

    Args:
        builders: prepare a variant; must be picklable: functions of a module, or partials of them.
        repeats: timed turns; seconds are those of a unit of work.
        warm_up: untimed steps of each variant before its first turn.
    """
    workers = {}
    for name, builder in builders.items():
        workers[name] = _Worker(builder, warm_up[name])
        workers[name].receive()  # one after another: variants are not prepared while another is timed
    timings = {name: Timing() for name in builders}
    for _ in range(repeats):
        for name, worker in workers.items():
            timings[name].seconds.append(worker.ask("step"))
    for name, worker in workers.items():
        timings[name].figures = worker.ask("figures")
        timings[name].peak_bytes = worker.ask("stop")
        worker.process.join()
    return timings


class _Worker:
    def __init__(self, builder: Callable[[], Prepared], warm_up: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        threads = torch.get_num_threads()
        self.process = context.Process(target=_serve, args=(other, builder, warm_up, threads), daemon=True)
        self.process.start()
        other.close()

    def ask(self, question: str) -> Any:
        self.connection.send(question)
        return self.receive()

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            raise RuntimeError("a variant's process ended; its message is above (out of memory, perhaps)") from None


def _serve(connection: Connection, builder: Callable[[], Prepared], warm_up: int, threads: int) -> None:
    torch.set_num_threads(threads)
    prepared = builder()
    for _ in range(warm_up):
        prepared.step()
    connection.send("ready")
    while (question := connection.recv()) != "stop":
        connection.send(clock(prepared.step) / prepared.units if question == "step" else dict(prepared.figures))
    connection.send(peak_bytes())


def peak_bytes() -> int:
    """The most memory that this process had: of the GPU where it used one, else resident in total."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
