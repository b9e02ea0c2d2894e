"""A finished run beside LoRA's code and the paper: what is marked, what is not, and what cannot be compared."""

import json
from itertools import product
from pathlib import Path

import pytest

from eval.aggregate import experiment_of
from eval.protocol import compare, counterpart, facts, find_run, points, read_run
from loda.errors import LodaError
from loda.lab.fingerprint import data_key
from loda.lab.paths import Outputs, RunDir
from loda.lab.train import describe
from scripts.compare_run import main
from tests.score_files import TOY, write_scores

# 2rdL, 2(rd + r^2)L and 2d^2 per layer of GPT2-medium
COUNTS = {"lora": 393_216, "loda": 394_752, "loda_plus": 394_752, "ft_qv": 50_331_648, "none": 0}
# protocol document, sections 1 and 5: contexts of the test file, updates of an epoch at batch size 8
CONTEXTS = {"e2e": 630, "dart": 4159, "webnlg": 1862, "toy": 40}
UPDATES = {"e2e": 5258, "dart": 7833, "webnlg": 2254, "toy": 60}
METRICS = {"e2e": ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")} | dict.fromkeys(
    ("webnlg", "dart", "dart_leaderboard"), ("BLEU", "METEOR", "TER")
)
PACKAGES = ("torch", "transformers", "nltk", "pycocoevalcap", "sacrebleu", "rapidfuzz")


def finished(root: Path, *overrides: str, data: str = "", contexts: int | None = None) -> RunDir:
    """A run as `train.py` leaves it, but for the large files."""
    experiment = experiment_of(overrides)
    dataset, settings = experiment.dataset, describe(experiment)
    steps = experiment.optim.epochs * UPDATES[dataset.name]
    packages = {"packages": dict.fromkeys(PACKAGES, "3.5")}
    path = write_scores(
        root,
        [*overrides, f"seed={experiment.seed}"],
        {},
        contexts=contexts or CONTEXTS[dataset.name],
        settings=settings,
        training={"steps": steps} if experiment.trains else None,
        cost={"trainable_parameters": COUNTS[settings["method"]["adapter"]["name"]]},
        hashes={"data": data or data_key(experiment)},
        provenance={"training": packages, "scoring": packages},
    )
    content = json.loads(path.read_text())
    content["scores"] = dict.fromkeys(METRICS[dataset.protocol], 0.5)
    path.write_text(json.dumps(content))
    run = Outputs(root).run(experiment)
    for file in (run.experiment, run.trained):
        file.write_text("{}")
    return run


def findings(run: RunDir):
    records = read_run(run)
    return {one.point.setting: one for one in compare(facts(run, records), points(counterpart(records[0].dataset)))}


def unlike_code(run: RunDir) -> set[str]:
    return {name for name, one in findings(run).items() if one.differs_from_reference}


def unlike_paper(run: RunDir) -> set[str]:
    return {name for name, one in findings(run).items() if one.differs_from_paper}


def test_every_point_is_found_in_some_run_and_every_value_has_a_source(tmp_path):
    runs = [
        ["dataset=e2e", f"adapter={adapter}", f"approx={approx}"]
        for adapter, approx in product(("lora", "loda_plus", "none"), ("none", "rank300", "keep40"))
    ]
    known = set()
    for overrides in [*runs, ["dataset=dart"], ["dataset=webnlg"]]:
        run = finished(tmp_path, *overrides)
        known |= facts(run, read_run(run)).keys()
    for dataset in ("e2e", "dart", "webnlg"):
        for point in points(dataset):
            assert point.here is not None or point.setting in known
            assert point.only.keys() <= known
            for side in (point.reference, point.paper):
                assert bool(side.source) >= bool(side.values), point


def test_the_recipe_of_loras_readme_differs_in_nothing_but_what_is_not_reproduced(tmp_path):
    recipe = ["dataset=e2e", "adapter=lora", "adapter.init=reference", "decode.length_penalty=0.8"]
    assert unlike_code(finished(tmp_path, *recipe)) == {"line break in a text"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=e2e", "adapter=lora"],
        ["dataset=e2e", "adapter=loda"],
        ["dataset=e2e", "adapter=loda_plus", "approx=rank300"],
        ["dataset=dart", "adapter=ft_qv"],
        ["dataset=dart", "adapter=loda", "approx=keep50"],
        ["dataset=webnlg", "adapter=lora"],
    ],
)
def test_the_default_recipes_are_the_papers(tmp_path, overrides):
    assert unlike_paper(finished(tmp_path, *overrides)) == set()


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("optim.lr=1e-4", "optim.lr"),
        ("optim.schedule_epochs=10", "schedule"),
        ("decode.length_penalty=0.8", "decode.length_penalty"),
        ("decode.num_beams=1", "decode.num_beams"),
        ("adapter.f1.negative_slope=0.1", "method.adapter.f1.negative_slope"),
        ("dataset.protocol=webnlg", "dataset.protocol"),
    ],
)
def test_a_changed_setting_is_marked(tmp_path, override, name):
    run = finished(tmp_path, "dataset=e2e", "adapter=loda", override)
    assert name in unlike_paper(run)
    assert unlike_paper(run) <= {name, "metrics"}  # the metrics are the protocol's


def test_other_data_and_missing_contexts_are_marked(tmp_path):
    run = finished(tmp_path, "dataset=e2e", "adapter=lora", data="another", contexts=600)
    assert {"data.train", "data.valid", "data.test", "contexts"} <= unlike_code(run)
    assert findings(run)["data.test"].run == ["other"]


def test_settings_of_the_training_are_left_out_where_nothing_was_trained(tmp_path):
    found = findings(finished(tmp_path, "dataset=e2e", "adapter=none"))
    assert not any(name.startswith(("optim.", "trainer.", "training.")) or name == "optimiser" for name in found)


def test_every_way_a_run_was_decoded_is_shown(tmp_path):
    finished(tmp_path, "dataset=e2e", "adapter=lora")
    run = finished(tmp_path, "dataset=e2e", "adapter=lora", "decode.num_beams=1")
    assert set(findings(run)["decode.num_beams"].run) == {"1", "10"}
    assert "decode.num_beams" in unlike_code(run)


def test_the_report_marks_counts_and_explains(tmp_path, capsys):
    run = finished(tmp_path, "dataset=e2e", "adapter=loda", "decode.length_penalty=0.8")
    assert main([run.name, "--outputs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if "decode.length_penalty" in line)
    assert lines[at].split() == ["≠P", "decode.length_penalty", "0.8", "0.8", "0.9"]
    assert "Table 11" in lines[at + 1]
    differing = [one for one in findings(run).values() if one.differs]
    assert len([line for line in lines[1:] if line.startswith("≠")]) == len(differing)
    assert lines[-1].startswith(f"{len(differing)} of ")
    assert main([str(run.path)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_what_is_no_finished_run_is_said_in_a_sentence(tmp_path, capsys):
    assert main(["nowhere", "--outputs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere is no run")
    run = finished(tmp_path, *TOY)
    run.failed.write_text(json.dumps({}))
    run.trained.unlink()
    with pytest.raises(LodaError, match=r"has no train\.json; .*failed\.json"):
        find_run(run.name, tmp_path)
    run.failed.unlink()
    run.trained.write_text("{}")
    for path in run.all_scores:
        path.unlink()
    with pytest.raises(LodaError, match=r"has no scores\.json; repeat its command"):
        find_run(run.name, tmp_path)


def test_a_run_of_another_version_is_named(tmp_path):
    run = finished(tmp_path, *TOY)
    (path,) = run.all_scores
    content = json.loads(path.read_text())
    del content["settings"]["optim"]["schedule_epochs"]
    path.write_text(json.dumps(content))
    with pytest.raises(LodaError, match=r"another version.*optim\.schedule_epochs"):
        facts(run, read_run(run))


def test_a_data_set_that_nothing_is_published_for_is_named():
    with pytest.raises(LodaError, match=r"says nothing about dataset\.name='xsum'"):
        counterpart("xsum")
