"""What a benchmark leaves: a table on the screen and `outputs/bench/NAME.json`."""

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from loda.lab.files import write_json
from loda.lab.provenance import provenance

OUTPUTS = Path("outputs/bench")


@dataclass(frozen=True)
class Row:
    """One line of a table: what was timed, the median in seconds, a ratio to another line, and what else to say."""

    name: str
    seconds: float | None
    ratio: float | None = None
    against: str = ""
    note: str = ""


def parser(name: str, summary: str) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=summary)
    made.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    made.add_argument("--threads", type=int, default=None, help="CPU threads; torch's choice unless given")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--outputs", type=Path, default=OUTPUTS)
    return made


def begin(arguments: argparse.Namespace) -> float:
    """Take the common options into effect; returns the time."""
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    return time.monotonic()


def finish(
    name: str, arguments: argparse.Namespace, started: float, rows: list[Row], details: Mapping[str, Any]
) -> None:
    """Print the table and write the file."""
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    origin = provenance(time.monotonic() - started, torch.device(arguments.device))
    content = {
        "benchmark": name,
        "settings": settings,
        "machine": origin | {"cores": os.cpu_count()},
        "rows": [asdict(row) for row in rows],
        "details": dict(details),
    }
    write_json(arguments.outputs / f"{name}.json", content)
    print(f"\n{name}: {origin['device']}, {os.cpu_count()} cores, {origin['threads']} threads; {_listing(settings)}")
    print(table(rows), flush=True)


def table(rows: list[Row]) -> str:
    """Aligned text: name, median, ratio, note."""
    cells = [
        (
            r.name,
            "" if r.seconds is None else duration(r.seconds),
            f"{r.ratio:.2f}x {r.against}" if r.ratio else "",
            r.note,
        )
        for r in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(3)]
    return "\n".join(
        f"  {name:<{widths[0]}}  {seconds:>{widths[1]}}  {ratio:<{widths[2]}}  {note}".rstrip()
        for name, seconds, ratio, note in cells
    )


def duration(seconds: float) -> str:
    """In the unit that leaves a readable number."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _listing(settings: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in settings.items() if k not in ("device", "threads", "outputs") and v is not None}
    return ", ".join(f"{key}={value}" for key, value in shown.items())
