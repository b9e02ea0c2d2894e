"""Commands that are stopped, killed, or have nobody to print to."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from eval.pipeline import find_records
from eval.tables.runs import table_runs
from loda.lab.interrupt import REQUEUE
from loda.lab.training.state import load_state
from scripts.run_table import run_all
from tests.conftest import REPOSITORY

SHORT = ["trainer.device=cpu", "trainer.threads=1", "decode.num_beams=1", "decode.max_new_tokens=4",
         "dataset.metrics=[bleu]"]  # fmt: skip
TOY_TABLE = ["table1", "--profile", "toy"]


def start(*command: str, **streams) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, text=True, **streams)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "model=toy", "dataset=toy"],
        ["-m", "scripts", "table", *TOY_TABLE],
        ["-m", "scripts.run_table", *TOY_TABLE],
        ["-m", "eval.table", *TOY_TABLE],
        ["-m", "eval.score", "--scorer", "e2e", "--refs", "lost", "--hyps", "lost"],
        ["-m", "scripts.verify"],
        ["-m", "scripts.figure2"],
    ],
    ids=["train", "scripts", "run_table", "eval.table", "eval.score", "verify", "figure2"],
)
def test_a_signal_during_the_imports_ends_with_the_code_that_requeues(command, tmp_path):
    files = Path("/proc")
    if not files.is_dir():
        pytest.skip("this system has no /proc")
    process = start(*command, f"outputs={tmp_path}", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    files /= str(process.pid)

    def listens() -> bool:
        caught = (files / "status").read_text().partition("SigCgt:")[2].split()[:1]
        return bool(caught and int(caught[0], 16) >> (signal.SIGTERM - 1) & 1)

    wait_for(listens, process)
    assert "libtorch" not in (files / "maps").read_text()  # the slowest of the imports is still to come
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == REQUEUE, said
    assert said == "stopped by SIGTERM; the same command continues from here\n"
    assert not list(tmp_path.iterdir())


def test_the_worker_of_a_table_that_is_killed_saves_and_stops(tmp_path):
    settings = [*SHORT, "optim.epochs=200", f"outputs={tmp_path}"]  # longer than the test
    rows = ["--rows", "LoRA", "--processes", "2"]
    runs = [job.runs[0] for job in table_runs("table1", "toy", settings) if job.row == "LoRA"]
    silent = subprocess.DEVNULL
    table = start("-m", "scripts", "table", *TOY_TABLE, *rows, *settings, stdout=silent, stderr=silent)
    wait_for(lambda: all(run.metrics_file.exists() and run.metrics_file.stat().st_size for run in runs), table)
    (worker,) = psutil.Process(table.pid).children()
    table.kill()
    table.wait()
    worker.wait(timeout=30)
    assert sum(load_state(run) is not None for run in runs) == 1


HOLD = """
import sys, time
from pathlib import Path
from loda.lab.lock import lock_run
with lock_run(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_run_of_a_worker_that_is_killed_is_done_by_another(tmp_path):
    settings = [*SHORT, "trainer.max_steps=2", f"outputs={tmp_path}"]
    first, second = (job for job in table_runs("table1", "toy", settings) if job.row == "LoRA")
    worker = start("-c", HOLD, str(first.runs[0].path), stdout=subprocess.PIPE)
    assert worker.stdout.readline() == "held\n"
    threading.Timer(5, worker.kill).start()
    assert run_all([first, second], None) == []
    assert all(find_records(job.runs[0]) is not None for job in (first, second))
    worker.communicate()


PRINTING = """
import sys
from tqdm import tqdm
from loda.lab.command_line import run_command

def main(arguments):
    sys.stdin.read()  # until the reader of the output is gone
    for number in tqdm(range(30), mininterval=0):
        print("x" * 1000, flush=True)
        tqdm.write("y")
    open(sys.argv[1], "w").close()
    return 0

run_command(main)
"""


@pytest.mark.parametrize(("output", "code"), [("full disk", 1), ("closed pipe", 0), ("closed", 0)])
def test_work_goes_on_when_nobody_can_read_what_it_prints(output, code, tmp_path):
    if output == "full disk":
        with Path("/dev/full").open("w") as full:
            process = start("-c", PRINTING, str(tmp_path / "done"), stdin=subprocess.PIPE, stdout=full, stderr=full)
    elif output == "closed pipe":
        reader, writer = os.pipe()
        process = start("-c", PRINTING, str(tmp_path / "done"), stdin=subprocess.PIPE, stdout=writer, stderr=writer)
        os.close(reader)
        os.close(writer)
    else:
        command = f"exec {sys.executable} -c '{PRINTING}' {tmp_path / 'done'} >&- 2>&-"
        process = subprocess.Popen(["sh", "-c", command], cwd=REPOSITORY, stdin=subprocess.PIPE)
    process.stdin.close()
    assert process.wait(timeout=60) == code
    assert (tmp_path / "done").exists()


def test_a_training_whose_log_is_on_a_full_disk_is_done_and_says_what_is_lost(tmp_path):
    command = ["train.py", "model=toy", "dataset=toy", "adapter=lora", "optim=toy", *SHORT, "trainer.max_steps=3"]
    with Path("/dev/full").open("w") as full:
        process = start(*command, f"outputs={tmp_path}", stdout=full, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=200)
    assert process.returncode == 1
    assert said.endswith("error: what was printed is lost (No space left on device); all else was done\n")
    assert list(tmp_path.glob("runs/*/decode/*/*/*/*/scores.json"))
