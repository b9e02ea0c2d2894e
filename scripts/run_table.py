"""Run every row of a table that is missing, then print and write the table.

    python -m scripts.run_table table1 --profile toy
    python -m scripts.run_table table1 --profile paper --insist

The runs go one after another, or several at a time with `--processes`; each does only what is missing, so the command
can be repeated until the table is complete. A failing row is recorded and the rest goes on. The paper's settings want a
GPU: without one the command says what they would cost and stops, unless `--insist` is given.
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

from eval.completion import headline, is_complete
from eval.table import write
from eval.tables.fill import build
from eval.tables.jobs import Job, jobs
from eval.tables.render import FORMATS
from loda.config import part_name
from loda.errors import LodaError
from loda.lab.config import Experiment
from loda.lab.data import count
from loda.lab.interrupt import REQUEUE, listening
from loda.lab.lock import HeldError
from loda.lab.progress import ONE_RUN, Bars
from loda.lab.run import Outputs
from loda.lab.training.checkpoints import checkpoints

# For the estimate alone: a training step costs 4 FLOP per parameter and token (forward, and backward through frozen
# weights), 6 where all weights are trained; rows are padded to their batch's longest (mean on E2E 73 tokens, on DART's
# dev split 111); a 48 GB card sustains about 10 TFLOP/s in fp32, two CPU cores about 0.1.
TOKENS_PER_ROW = {"e2e": 73, "dart": 111, "webnlg": 101}
SUSTAINED_FLOPS = {"an A40-class GPU": 1e13, "two CPU cores": 1e11}

screen_line: int | None = None
"""In a worker of several: the line of the screen that is its own."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its scores in a line, or what went wrong."""

    succeeded: bool
    message: str
    held: bool = False  # by another process, which may be about to finish it


def estimate(todo: Sequence[Job]) -> str:
    """What training these runs would cost, from operation counts."""
    if unknown := {job.experiment.model.name for job in todo if job.experiment.model.parameters is None}:
        return f"{len(todo)} runs, at a cost that is unknown, for {', '.join(unknown)} has no model.parameters"
    flops = sum(_flops(job.experiment) for job in todo if job.experiment.trains)
    hours = (f"{flops / speed / 3600:,.0f} hours on {name}" for name, speed in SUSTAINED_FLOPS.items())
    return f"{len(todo)} runs, roughly {' or '.join(hours)} (estimated from operation counts, not measured)"


def _flops(experiment: Experiment) -> float:
    dataset = experiment.dataset
    steps = checkpoints(experiment, count(dataset, "train"))[-1].step
    tokens = steps * experiment.optim.batch_size * TOKENS_PER_ROW.get(dataset.name, dataset.max_length)
    per_parameter = 6.0 if part_name(experiment.method.adapter) == "finetune" else 4.0
    return per_parameter * (experiment.model.parameters or 0) * tokens


def check_gpu(name: str, todo: Sequence[Job], profile: str, insist: bool, remedy: str) -> None:
    """Raise LodaError, with the cost, where the paper's settings would run without a GPU and nobody insists."""
    if todo and profile == "paper" and not (insist or torch.cuda.is_available()):
        raise LodaError(f"{name} in the paper's settings is {estimate(todo)}, and there is no GPU here; {remedy}")


def run(todo: Sequence[Job], processes: int) -> list[str]:
    """Run all jobs, `processes` at a time; returns the labels of those that failed."""
    return _run_in_turn(todo) if processes == 1 else _run_together(todo, processes)


def _run_in_turn(todo: Sequence[Job]) -> list[str]:
    failed, waiting = list[str](), deque((number, job, False) for number, job in enumerate(todo, start=1))
    while waiting:
        number, job, wait_for_it = waiting.popleft()
        print(f"[{number}/{len(todo)}] {job.label}", flush=True)
        outcome = attempt(job, ONE_RUN, wait_for_it)
        print(outcome.message)
        if outcome.held:
            waiting.append((number, job, True))
        elif not outcome.succeeded:
            failed.append(job.label)
    return failed


def _run_together(todo: Sequence[Job], processes: int) -> list[str]:
    """One bar counts the runs; on a terminal each worker has the bars of its own run below it."""
    context = get_context("spawn")
    lines = context.SimpleQueue()
    for line in range(1, processes + 1):
        lines.put(line)
    lock = context.RLock()
    tqdm.set_lock(lock)
    workers = ProcessPoolExecutor(processes, mp_context=context, initializer=_share_screen, initargs=(lock, lines))
    waiting = deque((number, job, False) for number, job in enumerate(todo, start=1))
    running, failed = dict[Future[Outcome], tuple[int, Job]](), list[str]()
    with _stopped_together(workers), ONE_RUN.bar("runs", len(todo), "run") as progress:
        while waiting or running:
            while waiting and len(running) < processes:
                number, job, wait_for_it = waiting.popleft()
                label = f"[{number}/{len(todo)}] {job.label}"
                progress.write(f"{label}: started")
                running[workers.submit(_work, job, label, wait_for_it)] = number, job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                (number, job), outcome = running.pop(future), _outcome(future)
                progress.write(f"{job.label}: {outcome.message}")
                if outcome.held:
                    waiting.append((number, job, True))
                    continue
                progress.update()
                failed += [] if outcome.succeeded else [job.label]
                if isinstance(future.exception(), BrokenProcessPool):
                    return [*failed, *(job.label for _, job in running.values()), *(job.label for _, job, _ in waiting)]
    return failed


@contextmanager
def _stopped_together(workers: ProcessPoolExecutor) -> Iterator[None]:
    """Wait for the workers at the end; where this process is told to stop, so are they."""
    with workers:
        try:
            yield
        except KeyboardInterrupt:
            workers.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.terminate()
            raise


def _share_screen(lock: Any, lines: Any) -> None:
    """Once in each worker: one lock for all bars, and a line of the screen for its own."""
    global screen_line
    tqdm.set_lock(lock)
    screen_line = lines.get()


def _work(job: Job, label: str, wait_for_it: bool) -> Outcome:
    return attempt(job, Bars(label, line=screen_line, only_on_terminal=True), wait_for_it)


def _outcome(future: "Future[Outcome]") -> Outcome:
    """The outcome of a worker; one that was killed had no time to say anything."""
    if isinstance(future.exception(), BrokenProcessPool):
        return Outcome(False, "failed: its process was killed, perhaps for want of memory; lower --processes")
    return future.result()


def attempt(job: Job, bars: Bars, wait_for_it: bool) -> Outcome:
    """Run one job and say how it ended; a failure is recorded in its folder and must not lose the others.

    Where another process is working on the same run, others can be done first; `wait_for_it` waits instead.
    """
    from eval.pipeline import record_failure, run_experiment  # seconds, which a finished table need not wait for

    run = None
    try:
        run = Outputs.of(job.experiment).run(job.experiment)
        records = [record for experiment in job.experiments for record in run_experiment(experiment, bars, wait_for_it)]
    except HeldError as error:
        return Outcome(False, str(error), held=True)
    except Exception as error:
        message = f"failed: {error if isinstance(error, LodaError) else traceback.format_exc()}"
        if run is not None:
            record_failure(run, " ".join(job.overrides), message)
        return Outcome(False, message)
    return Outcome(True, "; ".join(map(headline, records)))


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.run_table", description=__doc__.splitlines()[0])
    parser.add_argument("table", help="file in configs/table, such as table1")
    parser.add_argument("--profile", required=True, help="paper or toy")
    parser.add_argument("settings", nargs="*", help="overrides for all runs, such as model.path=FOLDER")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (on one GPU: 1)")
    parser.add_argument("--insist", action="store_true", help="run the paper's settings without a GPU")
    arguments = parser.parse_intermixed_args()
    try:
        with listening():
            if arguments.processes < 1:
                raise LodaError(f"--processes {arguments.processes} must be at least 1")
            every = jobs(arguments.table, arguments.profile, arguments.settings)
            todo = [job for job in every if not all(map(is_complete, job.experiments))]
            outputs = every[0].experiment.outputs
            given = f" SET={shlex.quote(' '.join(arguments.settings))}" if arguments.settings else ""
            remedy = f"to run it all the same: make {arguments.table} INSIST=1{given}"
            check_gpu(arguments.table, todo, arguments.profile, arguments.insist, remedy)
            print(f"{len(every) - len(todo)} of {len(every)} runs are done, {len(todo)} to do")
            failed = run(todo, arguments.processes)
            table = build(arguments.table, arguments.profile, outputs, arguments.settings)
            written = write(table, outputs)
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        return REQUEUE
    print(FORMATS["md"](table))
    print("written: " + ", ".join(map(str, written)))
    if failed:
        print(f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
