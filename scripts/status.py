"""List the runs below outputs/: done, running, failed or stopped; or what a table still lacks.

    python -m scripts status
    python -m scripts status table1 --profile toy

A run is `stopped` if it was started, nobody works on it, and it did not fail: the same command continues it. It is
`unknown` if its files are damaged or its lock cannot be opened. Runs of the same method and seed are told apart by the
settings in which they differ, runs of a table by their row.
"""

import argparse
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.pipeline import find_records, read_failure
from eval.results import headline
from eval.tables.runs import TableRun, table_runs
from loda.errors import LodaError, describe
from loda.lab.command_line import run_command
from loda.lab.config import Experiment
from loda.lab.lock import lock_owner
from loda.lab.run import Outputs, Run
from loda.lab.stage import Stage
from loda.lab.training.metrics_logger import read_metrics
from loda.lab.training.state import seconds_per_step
from loda.settings import load

STATES = ("done", "running", "failed", "stopped", "missing", "unknown")


@dataclass(frozen=True)
class Status:
    """One run: its state, what it does or scored, its seconds so far and the seconds left."""

    run: str
    state: str
    detail: str = ""
    elapsed: float | None = None
    left: float | None = None
    differs: str = ""


def status(path: Path, runs: Sequence[Run]) -> Status:
    """Look at the folder of a run; it is done when all of `runs`, which share it, are."""
    found = [find_records(run) for run in runs]
    if None in found:
        return _unfinished(path, runs[0])
    records = [record for of_run in found for record in of_run or []]
    # The checkpoints of a run share one training.
    seconds = {
        (stage, stage != "training" and record.checkpoint): facts["seconds"]
        for record in records
        for stage, facts in record.provenance.items()
    }
    return Status(path.name, "done", "; ".join(map(headline, records)), sum(seconds.values()))


def _unfinished(path: Path, run: Run) -> Status:
    owner = lock_owner(path)
    if owner is None:
        return _failure(path) or Status(path.name, "stopped", _progress(run, None)[0])
    since = (datetime.now(UTC) - datetime.fromisoformat(owner.since)).total_seconds()
    # A clock that was set back says nothing about how long the run has been going.
    elapsed = since if since > 0 else None
    detail, left = _progress(run, elapsed)
    return Status(path.name, "running", f"{detail}, {owner}", elapsed, left)


def started(outputs: Outputs) -> Iterator[tuple[Path, Stage | None]]:
    """The folder of every run, with what it was started with: one stage for each way to decode, None before any."""
    for path in sorted(path for path in outputs.runs.glob("*") if path.is_dir()):
        places = [found.relative_to(outputs.root).as_posix() for found in sorted(path.glob("decode/*/settings"))]
        yield from ((path, Stage(outputs.root, place, "settings")) for place in places)
        if not places:
            yield path, None


def status_of_folder(outputs: Outputs, path: Path, settings: Stage | None) -> Status:
    """Look at a run that is known by its folder and its settings alone."""
    found = None if settings is None else settings.find()
    if found is None:
        return _failure(path) or Status(path.name, "running" if lock_owner(path) else "stopped", "prepare")
    run = Run(replace(load(Experiment, found.content), outputs=str(outputs.root)))
    if run.path != path:
        raise LodaError(f"its settings are now those of {run.name}: the data or the base changed")
    return status(path, [run])


def status_of_job(job: TableRun) -> Status:
    """Look at a run of a table."""
    path = job.runs[0].path
    return status(path, job.runs) if path.exists() else Status(path.name, "missing")


def judged(path: Path, look: Callable[[], Status]) -> Status:
    """What `look` finds, or why nobody can tell: one damaged run must not hide the others."""
    try:
        return look()
    except Exception as error:
        return Status(path.name, "unknown", describe(error))


def told_apart(statuses: Sequence[Status], settings: Sequence[Stage | None]) -> list[Status]:
    """The statuses, each with the settings in which its run differs from others of the same method and seed."""
    known = [_content(stage) for stage in settings]

    def differs(run: str, own: Mapping[str, Any]) -> str:
        method = run.rpartition("-")[0]
        alike = [k for k, each in zip(known, statuses, strict=True) if each.run.rpartition("-")[0] == method]
        return ", ".join(
            f"{name}={textwrap.shorten(str(own[name]), 40, placeholder='...')}"
            for name in own
            if name != "outputs" and any(other.get(name, own[name]) != own[name] for other in alike)
        )

    return [replace(each, differs=differs(each.run, own)) for each, own in zip(statuses, known, strict=True)]


def _content(settings: Stage | None) -> dict[str, Any]:
    """What a run was started with, by dotted name; nothing if that is damaged, which its status says."""
    try:
        found = None if settings is None else settings.find()
    except LodaError:
        found = None
    return dict(_flat(found.content)) if found else {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _failure(path: Path) -> Status | None:
    failed = path / "failed.json"
    if not failed.exists():
        return None
    return Status(path.name, "failed", read_failure(failed).message.strip().rpartition("\n")[2])


def _progress(run: Run, since: float | None) -> tuple[str, float | None]:
    """What a run is doing, and how many seconds of its training are left at the present rate."""
    training = run.training()
    if training is not None and training.find() is not None:
        return "decode and score", None
    lines = read_metrics(run.metrics_file)
    if not lines:
        return "prepare", None
    line, total = lines[-1], run.checkpoints[-1].step
    # `since` counts from the last start, steps from the first: a run that was resumed has a state, which knows both.
    rate = seconds_per_step(run) or (since and since / line["step"])
    left = None if rate is None else rate * (total - line["step"])
    return f"train {line['step']:g}/{total}, loss {line['loss']:.3f}", left


def render(statuses: Sequence[Status]) -> str:
    """One line for each run, and one for all."""
    width = max((len(each.run) for each in statuses), default=0)
    lines = [
        f"{each.run:<{width}}  {each.state:<7}  {_time(each.elapsed):>8}  "
        f"{f'{_time(each.left)} left' if each.left is not None else '':<14}  "
        + "  ".join(filter(None, (each.differs, each.detail)))
        for each in statuses
    ]
    counts = Counter(each.state for each in statuses)
    known = [each.elapsed for each in statuses if each.state == "done" and each.elapsed is not None]
    unfinished = len(statuses) - counts["done"]
    total = f"{len(statuses)} runs: " + (", ".join(f"{counts[s]} {s}" for s in STATES if counts[s]) or "none")
    if known and unfinished:
        mean = fmean(known)
        total += f"; a run took {_time(mean)}, the rest would take one process about {_time(unfinished * mean)}"
    return "\n".join([*lines, total])


def _time(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts status", description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", help="only the runs of this table, missing ones too, such as table1")
    parser.add_argument("settings", nargs="*", help="overrides that its runs were started with, as model.path=FOLDER")
    parser.add_argument("--profile", default="paper", help="of the table: paper or toy")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_intermixed_args(arguments)
    outputs = Outputs(options.outputs)
    if options.table is None:
        runs = list(started(outputs))
        every = [judged(path, partial(status_of_folder, outputs, path, settings)) for path, settings in runs]
        found = told_apart(every, [settings for _, settings in runs])
    else:
        listed = table_runs(options.table, options.profile, [*options.settings, f"outputs={outputs.root}"])
        found = [replace(judged(job.runs[0].path, partial(status_of_job, job)), differs=job.label) for job in listed]
    print(render(found))
    return 0


if __name__ == "__main__":
    run_command(main)
