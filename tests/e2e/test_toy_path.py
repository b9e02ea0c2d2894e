"""The whole path on the toy world, cut short: train, decode, score, table; and what a user sees when it fails."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loda
from eval import pipeline
from eval.decode import stage
from eval.decode.stage import read_texts
from eval.pipeline import complete
from eval.results import collect, keep, read_statistics
from loda.atomic import discard_folder
from loda.errors import LodaError
from loda.lab.base import approximation
from loda.lab.base.files import SHIPPED
from loda.lab.base.model import get_base, load_base
from loda.lab.config import compose
from loda.lab.run import Run
from loda.lab.stage import Stage
from scripts import figure2, linearize, plan, reproduce, status
from tests.conftest import python, run_experiment

SHORT = ["model=toy", "dataset=toy", "optim=toy", "trainer=toy", "seed=0"]
SHORT += ["decode.num_beams=2", "decode.max_new_tokens=12"]
NO_BASE = "error: model.path=/nowhere lacks config.json"


def settings(outputs: Path, *overrides: str) -> list[str]:
    return [*SHORT, f"outputs={outputs}", *overrides]


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
        assert set(record.scores) == {"BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr", "LOSS"}
        assert record.contexts == 40
        # 8 projections of 4 layers: 2 (r d + r^2) each, with d = 128 and r = 4
        assert record.cost.trainable_parameters == 8 * 2 * (4 * 128 + 16)
        # 4 layers of 4 R d, and 3 r d + 2 r^2 for each of 8 adapters
        assert record.cost.macs_per_token == 4 * 4 * 38 * 128 + 8 * (3 * 4 * 128 + 32)


def test_the_run_folder_holds_what_the_layout_says(records, outputs):
    run = outputs / "runs" / records[0].run
    settings = f"decode/{records[0].hashes['decode']}/settings/manifest.json"
    for name in ("metrics.jsonl", "training/manifest.json", settings):
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


def test_scoring_gets_ready_while_the_last_texts_are_decoded(tmp_path, monkeypatch):
    order = []
    search, start = stage.search, pipeline.start
    monkeypatch.setattr(stage, "search", lambda *given: order.append("search") or search(*given))
    monkeypatch.setattr(pipeline, "start", lambda metrics: order.append(*{"meteor"} & set(metrics)) or start(metrics))
    overrides = ["adapter=none", "decode.batch_size=20"]  # of 40 contexts
    run_experiment(compose(settings(tmp_path, *overrides)))
    assert order == ["search", "meteor", "search"]


def test_an_unfinished_decoding_is_no_damaged_scoring(records, outputs, capsys):
    place = f"{records[0].place.rpartition('/')[0]}.batches"
    Stage(outputs, f"{place}/0", "batch").write(content={"hypotheses": []})
    assert collect(outputs) == records
    assert capsys.readouterr().err == ""
    discard_folder(outputs / place)


def test_an_optimised_decoding_is_another_of_the_same_training(records, outputs, monkeypatch):
    found, optimised = {}, []
    optimise = loda.optimize_for_inference
    monkeypatch.setattr(loda, "optimize_for_inference", lambda *a, **k: optimised.append(k) or optimise(*a, **k))
    overrides = ["adapter=loda_plus", "approx=rank38", "optim.epochs=2", "optim.checkpoint_epochs=[1]"]
    for more in ("", "optimized=true", "optimized=true int8=true", "bf16=true", "split=valid"):
        run = Run(compose(settings(outputs, *overrides, *(f"decode.{each}" for each in more.split()))))
        complete(run)
        assert run.name == records[0].run
        decoding = run.decoding(run.checkpoints[-1], run.checkpoint(run.checkpoints[-1]).load()).load()
        found[more] = read_texts(run.root, decoding)
    plain, optimized, int8, bf16, _ = found.values()
    assert {"int8": False} in optimised
    assert optimised[-1] == {"int8": True}
    # The same to rounding. A tie that rounding decides would change a text, fewer bits may change several.
    assert sum(a == b for a, b in zip(plain, optimized, strict=True)) >= 39
    for rounded in (int8, bf16):
        assert plain != rounded
        assert sum(a == b for a, b in zip(plain, rounded, strict=True)) >= 20


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
    assert record.scores.keys() == {"BLEU", "LOSS"}


def test_an_adapter_does_not_load_on_an_altered_base(records, outputs, tmp_path):
    config = compose(SHORT).model
    base = load_base(config, Path(shutil.copytree(SHIPPED, tmp_path / "base")))
    with torch.no_grad():
        base.transformer.wte.weight[0, 0] += 1
    checkpoint = outputs / "runs" / records[0].run / "checkpoints" / "epoch-1"
    with pytest.raises(LodaError, match="another base model"):
        loda.from_pretrained(base, checkpoint)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("approx=rank300", r"rank=300 exceeds min\(d, 3d\) = 128"),
        ("adapter=prefix", "a prefix of 5 and 256 tokens exceed the model's 256 positions"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_before_anything_is_written(override, sentence, tmp_path):
    with pytest.raises(LodaError, match=sentence):
        run_experiment(compose(settings(tmp_path / "new", override)))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("overrides", "sentences"),
    [
        (["dataset.path=/nowhere"], ["test.txt (or test.txt.gz) is not in dataset.path=/nowhere"]),
        (["adapter.rr=4"], ["adapter.rr is not in the file"]),
        (["adapter=lodaa"], ["adapter=lodaa is not an option"]),
        (["-m", *SHORT, "model.path=/nowhere", "adapter=lora,loda"], [*[NO_BASE] * 2, "at least one job of the sweep"]),
    ],
    ids=["data", "setting", "group", "sweep"],
)
def test_a_mistake_ends_in_one_sentence_for_each_job(overrides, sentences, tmp_path):
    result = python("train.py", *overrides, f"outputs={tmp_path}")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert all(sentence in error for sentence, error in zip(sentences, errors, strict=True)), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_failing_job_does_not_end_the_sweep(tmp_path, launcher):
    sweep = ["-m", f"hydra/launcher={launcher}", *settings(tmp_path, "adapter=lora", "trainer.max_steps=2")]
    result = python(
        "train.py", *sweep, "approx=rank300,dense", "logger=wandb", "logger.mode=offline", WANDB_SILENT="true"
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: at least one job of the sweep failed")
    (failed,) = tmp_path.rglob("failed.json")
    assert "rank=300" in json.loads(failed.read_text())["message"]
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["adapter"] == "lora"
    assert list(tmp_path.rglob("offline-run-*"))


def test_a_single_run_that_fails_after_it_started_is_listed_as_failed(tmp_path, capsys):
    overrides = settings(tmp_path, "adapter=lora", "trainer.max_steps=2")
    run = Run(compose(overrides))
    run.path.mkdir(parents=True)
    (run.path / "checkpoints").write_text("a file where a folder belongs")
    result = python("train.py", *overrides)
    assert result.returncode == 2
    assert status.main(["--outputs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 runs: 1 failed")


def test_the_papers_tables_want_a_gpu_or_force():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    result = python("-m", "scripts.run_table", "table1", "--profile", "paper")
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


def test_what_has_no_scores_is_not_reproduced(tmp_path):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    with pytest.raises(LodaError, match="has no scores to reproduce"):
        reproduce.main(["empty", "--outputs", str(tmp_path)])


def test_a_result_is_reproduced_from_its_record(records, outputs, tmp_path, capsys):
    (run,) = {record.run for record in records}
    torch.set_num_threads(2)  # of an earlier run in this process, which must not matter
    assert reproduce.main([run, "--outputs", str(outputs), "--keep", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}: the same adapters, predictions and scores"
    altered = replace(records[0], hashes=records[0].hashes | {"adapter": "0" * 12})
    assert reproduce.compare(records, [altered, *records[1:]]) == [f"the adapter of {altered.checkpoint} differs"]


def test_a_kept_record_is_reproduced(records, outputs, tmp_path, capsys):
    keep(records[0], read_statistics(outputs, records[0]), tmp_path / "results")
    (path,) = (tmp_path / "results").glob("*.json")
    assert reproduce.main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{records[0].run}: the same adapters, predictions and scores"


def test_a_plan_is_made_without_training_and_shown(tmp_path, capsys):
    auto = ["approx=auto", "approx.budget=0.5", "approx.calibration=4", "targets=all"]
    assert plan.main(["--outputs", str(tmp_path), *SHORT, *auto]) == 0
    told = capsys.readouterr().out
    assert "of the multiply-accumulates of the approximated modules are left" in told
    (folder,) = (tmp_path / "plans").iterdir()
    assert (tmp_path / "figures" / f"plan-{folder.name}.png").stat().st_size > 0
    assert not (tmp_path / "runs").exists()
    with pytest.raises(LodaError, match="says its ranks and needs no plan; give approx=auto"):
        plan.main(["--outputs", str(tmp_path), *SHORT, "approx=rank38"])


def test_a_plan_is_probed_with_other_examples_than_it_is_made_from(outputs):
    run = Run(compose(settings(outputs, "approx=auto", "approx.calibration=256")))  # of 240
    seen, probes = approximation._examples(run, get_base(run.experiment.model, SHIPPED, run.base_key))
    assert (len(seen), len(probes)) == (176, 64)
    assert not {id(example) for example in seen} & {id(example) for example in probes}


def test_a_linearised_run_is_a_lora_that_loads(records, outputs, tmp_path, capsys):
    assert (
        linearize.main([records[0].run, "--outputs", str(outputs), "--examples", "4", "--save", str(tmp_path / "a")])
        == 0
    )
    told = capsys.readouterr().out
    assert "loss on the validation split: " in told
    assert f"BLEU of test: {records[-1].scores['BLEU']:.4f}, with the LoRA " in told
    run = Run(compose(settings(outputs)))
    model = loda.from_pretrained(load_base(run.experiment.model, SHIPPED), tmp_path / "a")
    assert loda.cost(model).trainable_parameters == 8 * 2 * 4 * 128
