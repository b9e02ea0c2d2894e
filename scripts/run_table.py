"""Run every row of a table that is missing, then print and write the table.

    python -m scripts table table1 --profile toy
    python -m scripts table table1 --profile paper --force
    python -m scripts table table1 --profile paper --launcher slurm hydra.launcher.partition=NAME

The runs go one after another, or several at a time with `--processes`, which starts this command that many times. Each
does only what is missing, so the command can be repeated until the table is complete. A failing run is recorded and the
others continue. The paper's settings want a GPU: without one the command says what they would cost and stops, unless
`--force` is given.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from eval.pipeline import complete, find_records, record_failure
from eval.results import Record, collect, headline, keep, read_statistics
from eval.tables.fill import build
from eval.tables.render import FORMATS, write
from eval.tables.runs import TableRun, table_runs
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.lock import LockedError
from loda.lab.run import Run
from scripts.launch import launch

# For the estimate only: a training step costs 4 FLOP per parameter and token (forward, and backward through frozen
# weights), 6 where all weights are trained; mean tokens of an example on E2E 73 and on DART's dev split 111 after
# padding; a 48 GB card sustains about 10 TFLOP/s in fp32, two CPU cores about 0.1.
TOKENS_PER_EXAMPLE = {"e2e": 73, "dart": 111, "webnlg": 101}
SUSTAINED_FLOPS = {"an A40-class GPU": 1e13, "two CPU cores": 1e11}


def run_all(todo: Sequence[TableRun], results: Path | None) -> list[str]:
    """Run all jobs and keep their records in `results`; returns the labels of those that failed.

    A run that another process has comes last.
    """
    failed, waiting = list[str](), deque((number, job, False) for number, job in enumerate(todo, start=1))
    while waiting:
        number, job, wait_for_it = waiting.popleft()
        print(f"[{number}/{len(todo)}] {job.label}", flush=True)
        try:
            records = [record for run in job.runs for record in complete(run, wait_for_it)]
            print("; ".join(map(headline, records)))
            if results is not None:
                for record in records:
                    keep(record, read_statistics(job.runs[0].root, record), results)
        except LockedError:
            print("another process is working on it; it comes last")
            waiting.append((number, job, True))
        except Exception as error:  # must not lose the other runs
            message = f"failed: {error if isinstance(error, LodaError) else traceback.format_exc()}"
            record_failure(job.runs[0], " ".join(job.overrides), message)
            print(message)
            failed.append(job.label)
    return failed


def launch_all(todo: Sequence[TableRun], launcher: str, settings: Sequence[str], results: Path | None) -> list[str]:
    """As `run_all`, all jobs by one of Hydra's launchers."""
    jobs = [[*job.overrides, f"decode.split={run.experiment.decode.split}"] for job in todo for run in job.runs]
    launch(jobs, launcher, [each for each in settings if each.startswith(("hydra.", "outputs="))])
    # What is done is only read and kept.
    return run_all([job for job in todo if is_done(job, None)], results) + [
        job.label for job in todo if not is_done(job, None)
    ]


def is_done(job: TableRun, kept: Sequence[Record] | None) -> bool:
    """Whether all scores of a job are there: among the kept records, if these are given, or in its outputs folder."""
    if kept is None:
        return all(find_records(run) is not None for run in job.runs)
    found = {(record.run, record.hashes["decode"], record.split, record.checkpoint) for record in kept}
    return found >= {
        (run.name, run.decode_key, run.experiment.decode.split, checkpoint.name)
        for run in job.runs
        for checkpoint in run.checkpoints
    }


@contextmanager
def helpers(starts: Sequence[int], arguments: Sequence[str]) -> Iterator[None]:
    """Have more processes work on the same table, silently, each beginning elsewhere; a lock gives every run to one."""
    command = [sys.executable, "-m", "scripts.run_table", *arguments, "--start"]
    silent = subprocess.DEVNULL
    processes = [
        subprocess.Popen([*command, str(start)], stdin=subprocess.PIPE, stdout=silent, stderr=silent)
        for start in starts
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def stop_with_parent() -> None:
    """Stop this process, as SIGTERM does, when the one that started it has ended, however that died."""

    def watch() -> None:
        os.read(0, 1)  # the parent never writes, so this returns when its end of the pipe is closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def estimate(todo: Sequence[TableRun]) -> str:
    """What training these runs would cost, from operation counts."""
    experiments = [job.runs[0].experiment for job in todo]
    if unknown := {experiment.model.name for experiment in experiments if experiment.model.parameters is None}:
        return f"{len(todo)} runs at an unknown cost, because {', '.join(unknown)} has no model.parameters"
    flops = sum(_flops(job.runs[0]) for job in todo)
    hours = (f"{flops / speed / 3600:,.0f} hours on {name}" for name, speed in SUSTAINED_FLOPS.items())
    return f"{len(todo)} runs, roughly {' or '.join(hours)} (estimated from operation counts, not measured)"


def _flops(run: Run) -> float:
    """Of a training; 0 without one."""
    experiment, dataset = run.experiment, run.experiment.dataset
    tokens = (
        run.checkpoints[-1].step
        * experiment.optim.batch_size
        * TOKENS_PER_EXAMPLE.get(dataset.name, dataset.max_length)
    )
    if not experiment.trains:
        return 0.0
    per_parameter = 6.0 if experiment.method.adapter.name == "finetune" else 4.0
    return per_parameter * (experiment.model.parameters or 0) * tokens


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts table", description=__doc__.splitlines()[0])
    parser.add_argument("table", help="file in configs/table, such as table1")
    parser.add_argument("--profile", required=True, help="of the table: paper, small or toy")
    parser.add_argument("settings", nargs="*", help="overrides for all runs, such as model.path=FOLDER")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (on one GPU: 1)")
    parser.add_argument("--results", type=Path, help="keep the records in this folder too; what it has counts as done")
    parser.add_argument("--launcher", help="slurm, or another of Hydra's launchers, which runs what is missing")
    parser.add_argument("--rows", nargs="+", help="labels of the rows to run; default: all")
    parser.add_argument("--force", action="store_true", help="run the paper's settings without a GPU")
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    if options.start is not None:
        stop_with_parent()
    if options.processes < 1:
        raise LodaError(f"--processes {options.processes} must be at least 1")
    settings = [each for each in options.settings if not each.startswith("hydra.")]
    every = table_runs(options.table, options.profile, settings, options.rows)
    if not every:
        raise LodaError(f"the profile {options.profile} of {options.table} leaves these rows out; choose other --rows")
    kept = None if options.results is None else collect(options.results)
    todo = [job for job in every if not is_done(job, kept)]
    here = options.launcher is None
    if todo and here and options.profile == "paper" and not (options.force or torch.cuda.is_available()):
        given = f" ARGS={shlex.quote(' '.join(settings))}" if settings else ""
        raise LodaError(
            f"{options.table} in the paper's settings is {estimate(todo)}, and there is no GPU here; to run it all "
            f"the same: make {options.table} FORCE=1{given}"
        )
    print(f"{len(every) - len(todo)} of {len(every)} runs are done, {len(todo)} to do")
    arguments = [options.table, "--profile", options.profile, *settings, *["--force"] * options.force]
    arguments += ["--results", str(options.results)] if options.results else []
    arguments += ["--rows", *options.rows] if options.rows else []
    processes, start = min(options.processes, len(todo)), options.start or 0
    if todo and not here:
        failed = launch_all(todo, options.launcher, options.settings, options.results)
    else:
        with helpers([len(todo) * k // processes for k in range(1, processes)], arguments):
            failed = run_all([*todo[start:], *todo[:start]], options.results)
    root = options.results or every[0].runs[0].root
    table = build(options.table, options.profile, root, settings)
    written = write(table, root)
    print(FORMATS["md"](table))
    print("written: " + ", ".join(map(str, written)))
    if failed:
        print(f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
