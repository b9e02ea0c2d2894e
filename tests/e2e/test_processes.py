"""One run over two processes on the CPU (gloo) against the same run in one process."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eval.pipeline import check
from loda.lab.config import compose
from loda.lab.run import Run
from loda.lab.training.train import train
from tests.conftest import python

# Without dropout, whose noise each process draws for itself; 6 batches of 4 examples make 3 updates.
RUN = ["model=toy", "dataset=toy", "adapter=loda_plus", "adapter.dropout=0", "trainer.device=cpu",
       "trainer.max_steps=6", "trainer.log_every=1", "optim=toy", "optim.gradient_accumulation_steps=2",
       "optim.warmup_steps=2", "decode.num_beams=1", "decode.max_new_tokens=4"]  # fmt: skip


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
