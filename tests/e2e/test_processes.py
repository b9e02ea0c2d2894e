"""One run over two processes on the CPU (gloo): against the same run in one process, and stopped by signals."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from eval.pipeline import check
from loda.lab.config import compose
from loda.lab.interrupt import REQUEUE
from loda.lab.run import Run
from loda.lab.training.train import train
from loda.manifest import hash_files
from tests.conftest import REPOSITORY, python

# Without dropout, whose noise each process draws for itself; 6 batches of 4 examples make 3 updates.
RUN = ["model=toy", "dataset=toy", "adapter=loda_plus", "adapter.dropout=0", "trainer.device=cpu",
       "trainer.max_steps=6", "trainer.log_every=1", "optim=toy", "optim.gradient_accumulation_steps=2",
       "optim.warmup_steps=2", "decode.num_beams=1", "decode.max_new_tokens=4"]  # fmt: skip


# With dropout, so that the generators of both processes matter.
LONG = [*RUN, "adapter.dropout=0.1", "trainer.max_steps=120", "dataset.metrics=[bleu]"]
LAUNCH = ["-m", "scripts", "torchrun", "--standalone", "--nproc_per_node", "2", "train.py"]


def run_in(outputs: Path) -> Run:
    return Run(compose([*RUN, f"outputs={outputs}"]))


def metrics(run: Run) -> list[dict]:
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def test_two_processes_give_the_run_of_one(tmp_path):
    alone, shared = run_in(tmp_path / "one"), run_in(tmp_path / "two")
    inputs = check(alone)
    train(alone, inputs.base, inputs.examples, inputs.validation)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    result = python(*launcher, "train.py", *RUN, f"outputs={tmp_path / 'two'}")
    assert result.returncode == 0, result.stderr
    assert shared.name == alone.name  # the number of processes is not identity
    assert shared.training().load().content["training"]["processes"] == 2
    together, single = metrics(shared), metrics(alone)
    assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in single], rel=1e-6)
    assert [line["lr"] for line in together] == [line["lr"] for line in single]
    paths = [run.checkpoint(run.checkpoints[-1]).path / "adapter_model.safetensors" for run in (alone, shared)]
    expected, found = map(load_file, paths)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    # one of the two decoded, scored and printed
    assert result.stdout.count(alone.name) == 1
    assert len((tmp_path / "two" / "results.jsonl").read_text().splitlines()) == 1
    assert not list((tmp_path / "two").rglob(".*"))


def test_a_sweep_over_several_processes_is_refused(tmp_path):
    result = python("train.py", "-m", *RUN, f"outputs={tmp_path}", RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    assert result.returncode == 2
    assert "a sweep runs in one process, this launch has 2" in result.stderr
    assert not list(tmp_path.rglob("manifest.json"))


def stopped_by(number: signal.Signals, whom: str, late: bool, outputs: Path) -> tuple[int, str]:
    """Start the run, send a signal to rank0, rank1 or the launcher; the exit code and what was said."""
    run, started = Run(compose([*LONG, f"outputs={outputs}"])), time.monotonic()
    lines = len(metrics(run)) if run.metrics_file.exists() else 0
    command = [sys.executable, *LAUNCH, *LONG, f"outputs={outputs}"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    found = {"launcher": psutil.Process(process.pid)}
    while len(found) < 3 or (late and not (run.metrics_file.exists() and len(metrics(run)) >= lines + 10)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < started + 200
        for child in found["launcher"].children():
            if (rank := child.environ().get("RANK")) is not None:
                found[f"rank{rank}"] = child
        time.sleep(0.05)
    found[whom].send_signal(number)
    _, said = process.communicate(timeout=120)
    assert not [child for child in found.values() if child.is_running()]
    return process.returncode, said


def test_two_processes_that_are_stopped_go_on_to_the_same_bytes(tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    result = python(*LAUNCH, *LONG, f"outputs={undisturbed}")
    assert result.returncode == 0, result.stderr
    stops = [("launcher", signal.SIGTERM, False), ("rank1", signal.SIGTERM, True), ("rank0", signal.SIGTERM, True),
             ("launcher", signal.SIGUSR1, True)]  # fmt: skip
    for whom, number, late in stops:
        code, said = stopped_by(number, whom, late, stopped)
        assert code == REQUEUE, said
        assert "; the same command continues from here" in said
    result = python(*LAUNCH, *LONG, f"outputs={stopped}")
    assert result.returncode == 0, result.stderr
    runs = [Run(compose([*LONG, f"outputs={outputs}"])) for outputs in (undisturbed, stopped)]
    assert runs[1].training().load().content["training"]["resumed"] == 3
    assert metrics(runs[1]) == metrics(runs[0])
    adapters = [hash_files(run.checkpoint(run.checkpoints[-1]).path, "README.md", "manifest.json") for run in runs]
    assert adapters[1] == adapters[0]


def test_a_failure_of_a_process_is_the_exit_code_of_the_launch(tmp_path):
    result = python(*LAUNCH, *LONG, "optim.batch_size=3", f"outputs={tmp_path}")
    assert result.returncode == 2, result.stderr
    assert "optim.batch_size=3 does not divide by the 2 processes" in result.stderr
