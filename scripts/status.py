"""What is running? Every run below outputs/: done, running, failed or stopped; and what a table still lacks.

    python -m scripts.status
    python -m scripts.status table1 --profile toy

A run is `stopped` if it has begun, nobody works on it, and it did not fail: the same command goes on with it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.completion import headline, is_complete
from eval.results import Record, read_record
from eval.tables.jobs import Job, jobs
from loda.errors import LodaError
from loda.lab.config import Experiment, restore
from loda.lab.files import last_json_line
from loda.lab.lock import holder
from loda.lab.run import Outputs, RunDir
from loda.sealed import read_json


class State(Enum):
    """What has become of a run."""

    done = "done"
    running = "running"
    failed = "failed"
    stopped = "stopped"
    missing = "missing"


@dataclass(frozen=True)
class Status:
    """One run: its state, what it is doing or what it scored, the time it took so far and what is left, in seconds."""

    run: str
    state: State
    detail: str = ""
    elapsed: float | None = None
    left: float | None = None


def status(run: RunDir, outputs: Outputs, experiments: Sequence[Experiment] = ()) -> Status:
    """Look at one run folder; it is done when all of `experiments` are, or else the one that it was begun for."""
    if held := holder(run):
        since = (datetime.now(UTC) - datetime.fromisoformat(held.since)).total_seconds()
        stage, left = _stage(run, since)
        return Status(run.name, State.running, f"{stage}, {held}", since, left)
    if run.failed.exists():
        return Status(run.name, State.failed, read_json(run.failed)["message"].strip().splitlines()[-1])
    if not run.experiment.exists():
        return Status(run.name, State.stopped, "prepare")
    try:
        scored = experiments or [replace(restore(read_json(run.experiment)), outputs=str(outputs.root))]
        complete = all(map(is_complete, scored))
    except (LodaError, FileNotFoundError) as error:
        return Status(run.name, State.stopped, f"cannot be judged: {error}")
    if not complete:
        return Status(run.name, State.stopped, _stage(run, None)[0])
    records = [read_record(path) for path in run.all_scores]
    seconds = _training_seconds(run) + sum(map(_seconds, records))
    return Status(run.name, State.done, "; ".join(map(headline, records)), seconds)


def _stage(run: RunDir, since: float | None) -> tuple[str, float | None]:
    """What a run is doing, and how many seconds of its training are left at the present rate."""
    if run.trained.exists():
        return "decode and score", None
    if not run.journal.exists():
        return "prepare", None
    line, settings = last_json_line(run.journal), read_json(run.experiment)
    if line is None:
        return "train", None
    total = _total_steps(line, settings)
    left = None if since is None else since * (total - line["step"]) / line["step"]
    return f"train {line['step']}/{total}, loss {line['loss']:.3f}", left


def _total_steps(line: dict[str, Any], settings: dict[str, Any]) -> int:
    epochs: int = round(settings["optim"]["epochs"] * line["step"] / line["epoch"])
    limit: int | None = settings["trainer"]["max_steps"]
    return min(epochs, limit or epochs)


def _seconds(record: Record) -> float:
    """Of decoding and scoring."""
    return float(sum(record.provenance[stage]["seconds"] for stage in ("decoding", "scoring")))


def _training_seconds(run: RunDir) -> float:
    return float(read_json(run.trained)["provenance"]["seconds"])


def _of_job(job: Job, outputs: Outputs) -> Status:
    run = outputs.run(job.experiment)
    return status(run, outputs, job.experiments) if run.path.exists() else Status(run.name, State.missing)


def render(statuses: Sequence[Status]) -> str:
    """One line for each run, and one for all."""
    width = max((len(each.run) for each in statuses), default=0)
    lines = [
        f"{each.run:<{width}}  {each.state.value:<7}  {_time(each.elapsed):>8}  {_left(each.left):<14}  {each.detail}"
        for each in statuses
    ]
    counts = Counter(each.state for each in statuses)
    known = [each.elapsed for each in statuses if each.state is State.done and each.elapsed is not None]
    unfinished = len(statuses) - counts[State.done]
    total = f"{len(statuses)} runs: " + (", ".join(f"{counts[s]} {s.value}" for s in State if counts[s]) or "none")
    if known and unfinished:
        mean = fmean(known)
        total += f"; a run took {_time(mean)}, the rest would take one process about {_time(unfinished * mean)}"
    return "\n".join([*lines, total])


def _time(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{_time(seconds)} left"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.status", description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", help="only the runs of this table, missing ones too, such as table1")
    parser.add_argument("settings", nargs="*", help="overrides that its runs were started with, as model.path=FOLDER")
    parser.add_argument("--profile", default="paper", help="of the table: paper or toy")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    arguments = parser.parse_intermixed_args(argv)
    outputs = Outputs(arguments.outputs)
    try:
        if arguments.table is None:
            found = [status(RunDir(path), outputs) for path in sorted(outputs.runs.glob("*")) if path.is_dir()]
        else:
            listed = jobs(arguments.table, arguments.profile, [*arguments.settings, f"outputs={outputs.root}"])
            found = [_of_job(job, outputs) for job in listed]
        print(render(found))
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
