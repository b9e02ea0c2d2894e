"""The whole path on the toy world, cut short: train, decode, score, table; and what a user sees when it fails."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import loda
from eval.pipeline import run_experiment
from loda.errors import LodaError
from loda.lab.base.files import SHIPPED
from loda.lab.base.model import load_base
from loda.lab.config import compose
from loda.lab.run import Run
from scripts import figure2, reproduce, status

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = [
    "model=toy",
    "dataset=toy",
    "optim=toy",
    "trainer=toy",
    "decode.num_beams=2",
    "decode.max_new_tokens=12",
    "seed=0",
]


def settings(outputs: Path, *overrides: str) -> list[str]:
    return [*SHORT, f"outputs={outputs}", *overrides]


def command_line(*overrides: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "train.py", *overrides],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def records(outputs):
    overrides = ["adapter=loda_plus", "approx=rank38", "optim.epochs=2", "optim.checkpoint_epochs=[1]"]
    return run_experiment(compose(settings(outputs, *overrides)))


def test_every_checkpoint_is_scored(records):
    assert [record.epoch for record in records] == [1, 2]
    for record in records:
        assert set(record.scores) == {"BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"}
        assert record.contexts == 40
        # 8 projections of 4 layers: 2 (r d + r^2) each, with d = 128 and r = 4
        assert record.cost.trainable_parameters == 8 * 2 * (4 * 128 + 16)
        # 4 layers of 4 R d, and 3 r d + 2 r^2 for each of 8 adapters
        assert record.cost.macs_per_token == 4 * 4 * 38 * 128 + 8 * (3 * 4 * 128 + 32)


def test_the_run_folder_holds_what_the_layout_says(records, outputs):
    run = outputs / "runs" / records[0].run
    for name in ("settings/manifest.json", "metrics.jsonl", "training/manifest.json"):
        assert (run / name).is_file()
    assert (run / "checkpoints" / "epoch-1" / "adapter_model.safetensors").is_file()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["lr"] < max(line["lr"] for line in metrics)
    assert not list(outputs.rglob(".*"))  # temporary names start with a dot


def test_the_status_of_a_finished_run_is_its_score(records, outputs, capsys):
    assert status.main(["--outputs", str(outputs)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(records[0].run)]
    assert line.split()[1] == "done"
    assert f"test, epoch 2: BLEU {records[1].scores['BLEU']:.4f}" in line


def test_the_unadapted_model_is_decoded_without_training(outputs):
    (record,) = run_experiment(compose(settings(outputs, "adapter=none")))
    assert (record.epoch, record.cost.trainable_parameters) == (0, 0)


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["adapter=none", "decode=one_shot"], 0),
        (["adapter=prefix", "adapter.hidden=16", "dataset.max_length=251", "optim=li_liang"], 5 * 4 * 2 * 128),
        (["adapter=finetune", "optim=li_liang"], 989_952),  # the whole base
        (["adapter=lin", "adapter.r=2"], 4 * (2 * 2 * 128 + 2 + 128 + 2 * 128)),
        (["adapter=lora", "approx=rank38"], 8 * 2 * 4 * 128),  # R-LoRA
        (["adapter=lora", "approx=keep40"], 8 * 2 * 4 * 128),  # S-LoRA
    ],
    ids=["one-shot", "prefix", "finetune", "lin", "R-LoRA", "S-LoRA"],
)
def test_every_kind_of_row_takes_the_whole_path(overrides, count, outputs):
    short = ["trainer.max_steps=2", "decode.num_beams=1", "decode.max_new_tokens=4", "dataset.metrics=[bleu]"]
    (record,) = run_experiment(compose(settings(outputs, *overrides, *short)))
    assert record.cost.trainable_parameters == count
    assert record.scores.keys() == {"BLEU"}


def test_a_prefix_that_leaves_no_room_for_the_longest_row_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(LodaError, match="a prefix of 5 and 256 tokens exceed the model's 256 positions"):
        run_experiment(compose(settings(tmp_path / "new", "adapter=prefix")))
    assert not (tmp_path / "new").exists()


def test_an_adapter_does_not_load_on_an_altered_base(records, outputs, tmp_path):
    config = compose(SHORT).model
    base = load_base(config, Path(shutil.copytree(SHIPPED, tmp_path / "base")))
    with torch.no_grad():
        base.transformer.wte.weight[0, 0] += 1
    checkpoint = outputs / "runs" / records[0].run / "checkpoints" / "epoch-1"
    with pytest.raises(LodaError, match="another base model"):
        loda.from_pretrained(base, checkpoint)


def test_a_rank_above_the_width_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(LodaError, match=r"rank=300 exceeds min\(d, 3d\) = 128"):
        run_experiment(compose(settings(tmp_path / "new", "approx=rank300")))
    assert not (tmp_path / "new").exists()


def test_without_data_the_command_ends_in_one_sentence(tmp_path):
    result = command_line(f"outputs={tmp_path}", "dataset.path=/nowhere")
    assert result.returncode == 2
    assert result.stderr.startswith("error: test.txt (or test.txt.gz) is not in dataset.path=/nowhere")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_failing_job_does_not_end_the_sweep(tmp_path, launcher):
    sweep = ["-m", f"hydra/launcher={launcher}", *settings(tmp_path, "adapter=lora", "trainer.max_steps=2")]
    result = command_line(*sweep, "approx=rank300,dense", "logger=wandb", "logger.mode=offline", WANDB_SILENT="true")
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: at least one job of the sweep failed")
    (failed,) = tmp_path.rglob("failed.json")
    assert "rank=300" in json.loads(failed.read_text())["message"]
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["adapter"] == "lora"
    assert list(tmp_path.rglob("offline-run-*"))


@pytest.mark.parametrize(("override", "words"), [("adapter.rr=4", "adapter.rr"), ("adapter=lodaa", "adapter/lodaa")])
def test_a_misspelt_setting_ends_in_one_sentence(override, words):
    result = command_line(override)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_single_run_that_fails_after_it_started_is_listed_as_failed(tmp_path, capsys):
    overrides = settings(tmp_path, "adapter=lora", "trainer.max_steps=2")
    run = Run(compose(overrides))
    run.path.mkdir(parents=True)
    (run.path / "checkpoints").write_text("a file where a folder belongs")
    result = command_line(*overrides)
    assert result.returncode == 2
    assert status.main(["--outputs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 runs: 1 failed")


def test_a_sweep_over_a_missing_base_reports_every_job(tmp_path):
    result = command_line("-m", *settings(tmp_path), "model.path=/nowhere", "adapter=lora,loda")
    assert result.returncode == 2
    assert result.stderr.count("error: model.path=/nowhere lacks config.json") == 2
    assert "Traceback" not in result.stderr


def test_the_papers_tables_want_a_gpu_or_force():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    result = subprocess.run(
        [sys.executable, "-m", "scripts.run_table", "table1", "--profile", "paper"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    assert "hours on an A40-class GPU" in result.stderr
    assert "make table1 FORCE=1" in result.stderr


def test_figure_2_of_the_toy_base(tmp_path):
    assert figure2.main(["--model", "toy", "--outputs", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "figures" / "figure2-toy-block0.csv").open()))
    for panel, length in (("rank", 128), ("percent", 100)):
        energies = [float(row["energy"]) for row in rows if row["panel"] == panel]
        assert len(energies) == length
        assert energies == sorted(energies)
        assert energies[-1] == pytest.approx(1)
    assert (tmp_path / "figures" / "figure2-toy-block0.png").stat().st_size > 10_000
    with pytest.raises(LodaError, match="--block 99"):
        figure2.main(["--model", "toy", "--block", "99"])


def test_a_result_is_reproduced_from_its_record(records, outputs, tmp_path, capsys):
    (run,) = {record.run for record in records}
    assert reproduce.main([run, "--outputs", str(outputs), "--keep", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}: the same adapters, predictions and scores"
    altered = next(tmp_path.glob("runs/*/checkpoints/epoch-1/adapter_model.safetensors"))
    altered.write_bytes(altered.read_bytes()[:-1])
    (finding,) = reproduce.compare_files(outputs / "runs" / run, tmp_path / "runs" / run)
    assert finding == "checkpoints/epoch-1/adapter_model.safetensors differs"
