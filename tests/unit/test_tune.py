"""`scripts.tune`: the same learning-rate sweep for every row, judged on the validation split alone."""

import json

import pytest

from eval.table_spec import read
from eval.tuning import FACTORS, sweeps, tuned
from loda.errors import LodaError
from scripts import tune
from tests.score_files import TOY, write_scores

ROWS = ["LoRA", "LoDA+"]


def planned(tmp_path, labels=ROWS, factors=FACTORS, settings=()):
    return sweeps(read("table1"), "toy", [f"outputs={tmp_path}", *settings], labels, factors, seed=0)


def test_every_method_has_the_same_budget(tmp_path):
    """Own rates differ (FT of the toy has 1e-3, LoRA 1e-2); number of trials, factors and steps do not."""
    found = planned(tmp_path, ["FT", "LoRA", "S-LoDA"], settings=["optim.epochs=3", "optim.keep_epochs=[]"])
    assert len(found) == 3
    assert {tuple(trial.factor for trial in one.trials) for one in found} == {FACTORS}
    assert {trial.experiment.optim.epochs for one in found for trial in one.trials} == {3}
    assert {trial.experiment.seed for one in found for trial in one.trials} == {0}
    rates = {one.row.label: one.trials[2].rate for one in found}
    assert (rates["FT"], rates["LoRA"]) == (1e-3, 1e-2)


def test_the_test_split_has_no_say(tmp_path):
    assert {trial.experiment.decode.split for one in planned(tmp_path) for trial in one.trials} == {"valid"}


@pytest.fixture
def current(monkeypatch):
    """Scores count as those of the present scorer, so that no Java has to be there."""
    monkeypatch.setattr("eval.completion.metrics_key", lambda dataset: "metrics")


def score(root, adapter, rate, bleu, split="valid"):
    overrides = [*TOY, f"adapter={adapter}", f"optim.lr={rate:g}", f"decode.split={split}", f"outputs={root}"]
    write_scores(root, [*overrides, "seed=0"], {"BLEU": bleu})


@pytest.mark.usefixtures("current")
def test_the_best_rate_is_that_of_the_validation_split(tmp_path):
    for rate, bleu in [(2.5e-3, 0.3), (5e-3, 0.6), (1e-2, 0.5)]:
        score(tmp_path, "lora", rate, bleu)
        score(tmp_path, "lora", rate, 1 - bleu, split="test")
    found = tuned(planned(tmp_path, ["LoRA"])[0], read("table1"))
    assert found.values == [0.3, 0.6, 0.5, None, None]
    assert found.best is not None
    assert found.best.rate == 5e-3
    assert not found.is_at_the_edge


@pytest.mark.usefixtures("current")
def test_a_best_rate_at_the_edge_is_marked_and_the_row_can_be_run_with_it(tmp_path, capsys, monkeypatch):
    for factor in (0.5, 1.0):
        score(tmp_path, "lora", factor * 1e-2, factor / 2)
    monkeypatch.setattr(tune, "run", lambda todo, processes: pytest.fail("nothing is missing") if todo else [])
    arguments = ["table1", "--profile", "toy", "--row", "LoRA", "--factors", "0.5,1", f"outputs={tmp_path}"]
    assert tune.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| LoRA | No | 0.01 | 25.0 | **50.0** | 0.01 `!` |" in printed
    assert f"python train.py -m model=toy dataset=toy adapter=lora outputs={tmp_path} optim.lr=0.01 seed=0,1" in printed
    written = json.loads((tmp_path / "tables" / "tune-table1-toy.json").read_text())
    assert [(one["method"], one["best_lr"]) for one in written] == [("LoRA", 0.01)]
    assert (tmp_path / "figures" / "tune-table1-toy.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("labels", "factors", "message"),
    [
        (["LORA"], FACTORS, "'LORA' is no trained row of table1"),
        (["One-shot"], FACTORS, "'One-shot' is no trained row"),
        (ROWS, (1.0,), "two or more different positive numbers"),
        (ROWS, (1.0, -1.0), "two or more different positive numbers"),
    ],
)
def test_impossible_sweeps_are_refused(tmp_path, labels, factors, message):
    with pytest.raises(LodaError, match=message):
        planned(tmp_path, labels, factors)


def test_the_papers_settings_ask_for_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert tune.main(["table1", "--profile", "paper", "--row", "LoRA", f"outputs={tmp_path}"]) == 2
    assert "hours on an A40-class GPU" in capsys.readouterr().err
