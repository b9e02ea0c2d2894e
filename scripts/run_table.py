"""Run every row of a table that is missing, then print and write the table.

    python -m scripts table table1 --profile toy
    python -m scripts table table1 --profile paper --insist

The runs go one after another, or several at a time with `--processes`; each does only what is missing, so the command
can be repeated until the table is complete. A failing run is recorded and the others continue. The paper's settings
want a GPU: without one the command says what they would cost and stops, unless `--insist` is given.
"""

import argparse
import shlex
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import Any

import torch
from tqdm import tqdm

from eval.pipeline import complete, find_records, record_failure
from eval.results import headline
from eval.tables.fill import build
from eval.tables.render import FORMATS, write
from eval.tables.runs import TableRun, table_runs
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.interrupt import listening
from loda.lab.lock import HeldError
from loda.lab.progress import progress_bar, screen
from loda.lab.run import Run

# For the estimate only: a training step costs 4 FLOP per parameter and token (forward, and backward through frozen
# weights), 6 where all weights are trained; mean tokens of an example on E2E 73 and on DART's dev split 111 after
# padding; a 48 GB card sustains about 10 TFLOP/s in fp32, two CPU cores about 0.1.
TOKENS_PER_EXAMPLE = {"e2e": 73, "dart": 111, "webnlg": 101}
SUSTAINED_FLOPS = {"an A40-class GPU": 1e13, "two CPU cores": 1e11}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its scores in a line, or what went wrong; `held` by another process, which may finish it."""

    succeeded: bool
    message: str
    held: bool = False


def attempt(job: TableRun, wait_for_it: bool) -> Outcome:
    """Run one job. A failure is recorded in its folder and must not lose the others."""
    try:
        records = [record for run in job.runs for record in complete(run, wait_for_it)]
    except HeldError as error:
        return Outcome(False, str(error), held=True)
    except Exception as error:
        message = f"failed: {error if isinstance(error, LodaError) else traceback.format_exc()}"
        record_failure(job.runs[0], " ".join(job.overrides), message)
        return Outcome(False, message)
    return Outcome(True, "; ".join(map(headline, records)))


def run_in_turn(todo: Sequence[TableRun]) -> list[str]:
    """Run all jobs; returns the labels of those that failed. A run that another process has comes last."""
    failed, waiting = list[str](), deque((number, job, False) for number, job in enumerate(todo, start=1))
    while waiting:
        number, job, wait_for_it = waiting.popleft()
        print(f"[{number}/{len(todo)}] {job.label}", flush=True)
        outcome = attempt(job, wait_for_it)
        print(outcome.message)
        if outcome.held:
            waiting.append((number, job, True))
        elif not outcome.succeeded:
            failed.append(job.label)
    return failed


def run_together(todo: Sequence[TableRun], processes: int) -> list[str]:
    """Run all jobs, `processes` at a time: one bar counts the runs, each worker has the bars of its own below it."""
    context = get_context("spawn")
    lines, lock = context.SimpleQueue(), context.RLock()
    for line in range(1, processes + 1):
        lines.put(line)
    tqdm.set_lock(lock)
    workers = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(lock, lines))
    waiting = deque((number, job, False) for number, job in enumerate(todo, start=1))
    running, failed = dict[Future[Outcome], tuple[int, TableRun]](), list[str]()
    with _stopped_together(workers), progress_bar("runs", len(todo), "run") as bar:
        while waiting or running:
            while waiting and len(running) < processes:
                number, job, wait_for_it = waiting.popleft()
                label = f"[{number}/{len(todo)}] {job.label}"
                bar.write(f"{label}: started")
                running[workers.submit(_work, job, label, wait_for_it)] = number, job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                (number, job), outcome = running.pop(future), _outcome(future)
                bar.write(f"{job.label}: {outcome.message}")
                if outcome.held:
                    waiting.append((number, job, True))
                    continue
                bar.update()
                failed += [] if outcome.succeeded else [job.label]
                if isinstance(future.exception(), BrokenProcessPool):
                    return [*failed, *(job.label for _, job in running.values()), *(job.label for _, job, _ in waiting)]
    return failed


@contextmanager
def _stopped_together(workers: ProcessPoolExecutor) -> Iterator[None]:
    """Wait for the workers at the end, and stop them when this process is stopped."""
    with workers:
        try:
            yield
        except KeyboardInterrupt:
            workers.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.terminate()
            raise


def _start_worker(lock: Any, lines: Any) -> None:
    """One lock for the bars of all workers, and a line of the screen for this one."""
    tqdm.set_lock(lock)
    screen.update(position=lines.get(), leave=False, disable=None)  # None: only on a terminal


def _work(job: TableRun, label: str, wait_for_it: bool) -> Outcome:
    screen["label"] = label
    return attempt(job, wait_for_it)


def _outcome(future: "Future[Outcome]") -> Outcome:
    if isinstance(future.exception(), BrokenProcessPool):
        return Outcome(False, "failed: its process was killed, perhaps by the lack of memory; lower --processes")
    return future.result()


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
    parser.add_argument("--profile", required=True, help="paper or toy")
    parser.add_argument("settings", nargs="*", help="overrides for all runs, such as model.path=FOLDER")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (on one GPU: 1)")
    parser.add_argument("--insist", action="store_true", help="run the paper's settings without a GPU")
    options = parser.parse_intermixed_args(arguments)
    if options.processes < 1:
        raise LodaError(f"--processes {options.processes} must be at least 1")
    with listening():
        every = table_runs(options.table, options.profile, options.settings)
        todo = [job for job in every if any(find_records(run) is None for run in job.runs)]
        if todo and options.profile == "paper" and not (options.insist or torch.cuda.is_available()):
            given = f" ARGS={shlex.quote(' '.join(options.settings))}" if options.settings else ""
            raise LodaError(
                f"{options.table} in the paper's settings is {estimate(todo)}, and there is no GPU here; to run it all "
                f"the same: make {options.table} FORCE=1{given}"
            )
        print(f"{len(every) - len(todo)} of {len(every)} runs are done, {len(todo)} to do")
        failed = run_in_turn(todo) if options.processes == 1 else run_together(todo, options.processes)
        root = every[0].runs[0].root
        table = build(options.table, options.profile, root, options.settings)
        written = write(table, root)
    print(FORMATS["md"](table))
    print("written: " + ", ".join(map(str, written)))
    if failed:
        print(f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
