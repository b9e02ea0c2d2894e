"""One run over two processes on the CPU (gloo) against the same run in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loda.lab.base.files import SHIPPED
from loda.lab.base.model import load_tokenizer
from loda.lab.config import compose
from loda.lab.lock import hold
from loda.lab.progress import HIDDEN
from loda.lab.run import Outputs, RunDir
from loda.lab.training.stage import run_training, training_rows

REPOSITORY = Path(__file__).resolve().parents[2]
# Without dropout, whose noise each process draws for itself; 6 batches of 4 rows make 3 updates.
RUN = ["model=toy", "dataset=toy", "adapter=loda_plus", "adapter.dropout=0", "trainer.device=cpu",
       "trainer.max_steps=6", "trainer.log_every=1", "optim.accumulate=2", "optim.warmup_steps=2",
       "decode.num_beams=1", "decode.max_new_tokens=4"]  # fmt: skip


def start(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def in_one_process(outputs: Outputs) -> RunDir:
    experiment = compose([*RUN, f"outputs={outputs.root}"])
    rows = training_rows(experiment, load_tokenizer(SHIPPED), outputs)
    with hold(outputs.run(experiment), wait=False):
        run_training(experiment, SHIPPED, rows, outputs, HIDDEN)
    return outputs.run(experiment)


def journal(folder: RunDir) -> list[dict]:
    return [json.loads(line) for line in folder.journal.read_text().splitlines()]


def test_two_processes_give_the_run_of_one(tmp_path):
    alone = in_one_process(Outputs(tmp_path / "one"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    result = start(*launcher, "train.py", *RUN, f"outputs={tmp_path / 'two'}")
    assert result.returncode == 0, result.stderr
    shared = RunDir(tmp_path / "two" / "runs" / alone.name)  # the number of processes is not identity
    assert json.loads(shared.trained.read_text())["training"]["processes"] == 2
    assert [line["loss"] for line in journal(shared)] == pytest.approx(
        [line["loss"] for line in journal(alone)], rel=1e-6
    )
    assert [line["lr"] for line in journal(shared)] == [line["lr"] for line in journal(alone)]
    expected, found = (load_file(run.checkpoint("step-6") / "adapter_model.safetensors") for run in (alone, shared))
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    # one of the two decoded, scored and told
    assert result.stdout.count(alone.name) == 1
    assert len((tmp_path / "two" / "results.jsonl").read_text().splitlines()) == 1
    assert not list((tmp_path / "two").rglob(".*"))


def test_a_sweep_over_several_processes_is_refused(tmp_path):
    result = start("train.py", "-m", *RUN, f"outputs={tmp_path}", RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    assert result.returncode == 2
    assert "a sweep runs in one process, this launch has 2" in result.stderr
    assert not list(tmp_path.rglob("experiment.json"))
