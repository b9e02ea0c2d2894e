"""Collecting scores.json files: every malformed one is refused by name, and the result is in a fixed order."""

import json

import pytest

from eval.results import collect
from loda.errors import LodaError
from loda.lab.run import Outputs
from tests.eval.score_files import TOY, write_scores


@pytest.fixture
def score_file(tmp_path):
    return write_scores(tmp_path, [*TOY, "adapter=loda", "seed=0"], {"BLEU": 0.5})


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_results_hold_every_record_in_the_same_order_whenever_rebuilt(tmp_path):
    for seed in (1, 0):
        for epoch in (10, 5):
            write_scores(tmp_path, [*TOY, "adapter=loda", f"seed={seed}"], {"BLEU": 0.5}, epoch=epoch)
    records = collect(tmp_path)
    first = Outputs(tmp_path).results.read_text()
    assert [(record.seed, record.epoch) for record in records] == [(0, 5), (0, 10), (1, 5), (1, 10)]
    assert [json.loads(line)["run"] for line in first.splitlines()] == [record.run for record in records]
    collect(tmp_path)
    assert Outputs(tmp_path).results.read_text() == first


def test_no_runs_give_no_records(tmp_path):
    assert collect(tmp_path / "never_made") == []


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("seed"),
        lambda content: content.update(surprise=1),
        lambda content: content.update(seed="0"),
        lambda content: content.update(epoch=True),
        lambda content: content["scores"].update(BLEU=None),
        lambda content: content["scores"].update(BLEU=float("nan")),
        lambda content: content["hashes"].pop("metrics"),
        lambda content: content["cost"].pop("energy"),
        lambda content: content["cost"].update(trainable_parameters=0.5),
    ],
    ids=["missing", "unknown", "mistyped", "boolean", "no number", "nan", "no hash", "no energy", "half a parameter"],
)
def test_malformed_content_is_refused_with_the_name_of_the_file(tmp_path, score_file, change):
    edit(score_file, change)
    with pytest.raises(LodaError, match="score that run again") as error:
        collect(tmp_path)
    assert str(score_file) in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", '{"run": ', "\N{POUND SIGN}".encode("latin-1")])
def test_a_file_that_is_no_record_is_refused_with_its_name(tmp_path, score_file, text):
    score_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LodaError) as error:
        collect(tmp_path)
    assert str(score_file) in str(error.value)


def test_a_copied_run_folder_is_refused_instead_of_counted_twice(tmp_path, score_file):
    runs = Outputs(tmp_path).runs
    copy = runs / "backup" / score_file.relative_to(runs / score_file.relative_to(runs).parts[0])
    copy.parent.mkdir(parents=True)
    copy.write_bytes(score_file.read_bytes())
    with pytest.raises(LodaError, match="backup"):
        collect(tmp_path)
