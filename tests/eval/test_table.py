"""Filling a table: which runs a row takes, what is averaged, what is refused; on the toy profile of the real tables."""

import math
import shlex
from dataclasses import replace
from statistics import stdev

import pytest

from eval import table as command
from eval.tables.fill import fill, select_epoch
from eval.tables.render import markdown
from eval.tables.runs import table_runs
from eval.tables.spec import read
from loda.errors import LodaError
from loda.lab.config import compose
from loda.lab.run import Run
from tests.conftest import python
from tests.eval.records import TOY, record

LODA = [*TOY, "adapter=loda"]
S_LODA = [*LODA, "approx=keep40", "optim.epochs=6", "optim.checkpoint_epochs=[3]"]  # as in the toy profile
DART = [*TOY, "dataset.scorer=dart", "adapter=loda"]
PAPER = ["model=gpt2_medium", "dataset=e2e", "adapter=loda"]


def filled(*records, table="table1", profile="toy", settings=()):
    return fill(read(table), profile, records, settings)


def row_of(table, label, approx="No"):
    (row,) = [row for row in table.rows if (row.spec.label, row.spec.approx) == (label, approx)]
    return row


def bleu(row):
    return row.cells["BLEU"].ours


def test_a_cell_is_the_mean_over_seeds_in_the_units_of_the_column():
    """Seed 0 counts, and the deviation is that of a sample."""
    row = row_of(
        filled(*(record([*LODA, f"seed={s}"], {"BLEU": x, "NIST": x}) for s, x in ((0, 0.5), (1, 0.6)))), "LoDA"
    )
    assert (bleu(row).mean, bleu(row).n, row.missing_seeds) == (pytest.approx(55), 2, [])
    assert bleu(row).deviation == pytest.approx(stdev([50, 60]))
    assert row.cells["NIST"].ours.mean == pytest.approx(0.55)


def test_a_score_is_rounded_for_each_seed_where_the_column_says_so():
    """0.474 and 0.476 print as 0.47 and 0.48, so that two values that hardly differ have a deviation."""
    records = [record([*DART, f"seed={s}"], {"TER": x, "METEOR": x}) for s, x in ((0, 0.474), (1, 0.476))]
    cells = row_of(filled(*records, table="table2"), "LoDA").cells
    assert cells["TER"].ours.mean == pytest.approx(0.475)
    assert cells["TER"].ours.deviation == pytest.approx(0.01 / math.sqrt(2))
    assert cells["METEOR"].ours.deviation == pytest.approx(0.2 / math.sqrt(2))  # in percent


def test_runs_with_other_settings_do_not_enter():
    others = ("optim.lr=0.5", "decode.num_beams=1", "decode.split=valid", "dataset.scorer=dart")
    records = [record([*LODA, other, "seed=1"], {"BLEU": 0.9}) for other in others]
    row = row_of(filled(record([*LODA, "seed=0"], {"BLEU": 0.5}), *records), "LoDA")
    assert (bleu(row).n, bleu(row).mean, row.missing_seeds) == (1, 50, [1])


def test_a_row_takes_the_run_that_training_with_its_seed_makes():
    """The table composes a row once for all seeds; `train.py` composes each run with its own."""
    assert record([*LODA, "seed=1"]).run == Run(compose([*LODA, "seed=1"])).name


def test_each_seed_reports_its_best_epoch_with_all_its_metrics():
    table = filled(
        *(
            record([*S_LODA, f"seed={seed}"], {"BLEU": score, "NIST": epoch}, epoch)
            for seed, scores in ((0, {3: 0.5, 6: 0.6}), (1, {3: 0.8, 6: 0.7}))
            for epoch, score in scores.items()
        )
    )
    row = row_of(table, "S-LoDA", "Keep 40%")
    assert [record.epoch for record in row.records] == [6, 3]
    assert bleu(row).mean == pytest.approx(70)
    assert row.cells["NIST"].ours.mean == pytest.approx(4.5)


def test_a_run_is_missing_until_all_its_checkpoints_are_scored():
    assert row_of(filled(record([*S_LODA, "seed=0"], epoch=3)), "S-LoDA", "Keep 40%").missing_seeds == [0, 1]


def test_the_selecting_split_decides_and_the_reported_split_is_shown():
    """What is missing names the split, where a choice depends on it."""
    spec = replace(read("table1"), select_split="valid")
    records = [
        record([*S_LODA, f"decode.split={split}", "seed=0"], {"BLEU": score}, epoch)
        for split, scores in (("valid", {3: 0.9, 6: 0.1}), ("test", {3: 0.2, 6: 0.8}))
        for epoch, score in scores.items()
    ]
    table = fill(spec, "toy", records)
    assert bleu(row_of(table, "S-LoDA", "Keep 40%")).mean == pytest.approx(20)
    missing = f"python train.py {shlex.join(S_LODA)} {{}}seed=1"
    assert {missing.format(""), missing.format("decode.split=valid ")} <= set(table.commands)
    assert not any("valid" in line for line in table.commands if "approx=" not in line)
    with pytest.raises(LodaError, match="no BLEU on valid to select by"):
        select_epoch(records[1:], spec)


def test_a_run_with_a_choice_is_scored_on_both_splits_by_one_run(monkeypatch):
    """Two might train the same run at the same time."""
    spec = replace(read("table1"), select_split="valid")
    monkeypatch.setattr("eval.tables.runs.read", lambda name: spec)
    found = {run.label: [each.experiment.decode.split for each in run.runs] for run in table_runs("table1", "toy")}
    assert found["S-LoDA, seed 0"] == ["test", "valid"]
    assert found["LoDA, seed 0"] == ["test"]


@pytest.mark.parametrize(("metric", "later", "selected"), [("TER", 0.4, 10), ("TER", 0.5, 5), ("BLEU", 0.4, 5)])
def test_the_better_epoch_is_selected_and_of_equal_ones_the_earlier(metric, later, selected):
    spec = replace(read("table2"), select_by=metric)
    records = [record([*LODA, "seed=0"], {metric: score}, epoch) for epoch, score in ((10, later), (5, 0.5))]
    assert select_epoch(records, spec).epoch == selected


@pytest.mark.parametrize("kind", ["data", "metrics"])
@pytest.mark.parametrize("other", [[*LODA, "seed=1"], [*TOY, "adapter=lora", "seed=0"]], ids=["cell", "table"])
def test_scores_on_other_data_or_by_other_metrics_are_refused(kind, other):
    one, two = record([*LODA, "seed=0"]), record(other, hashes={kind: "other"})
    with pytest.raises(LodaError, match=f"{kind} hashes of {one.run} and {two.run}|{two.run} and {one.run}"):
        filled(one, two)


def test_one_run_can_stand_in_tables_of_two_scorers():
    records = [record([*LODA, "seed=0"], {"BLEU": 0.5}), record([*DART, "seed=0"], {"BLEU": 47.0, "TER": 0.5})]
    assert records[0].run == records[1].run
    assert bleu(row_of(filled(*records), "LoDA")).mean == pytest.approx(50)
    assert bleu(row_of(filled(*records, table="table2"), "LoDA")).mean == pytest.approx(47)


def test_another_scorer_does_not_fill_a_table():
    with pytest.raises(LodaError, match="'e2e' does not fill table2; leave it at dart"):
        filled(table="table2", settings=["dataset.scorer=e2e"])


def test_a_metric_that_only_some_seeds_have_is_refused():
    lacking = replace(record([*LODA, "seed=1"]), scores={"BLEU": 0.5})
    with pytest.raises(LodaError, match=f"NIST is missing in {lacking.run}"):
        filled(record([*LODA, "seed=0"]), lacking)
    cells = row_of(filled(lacking), "LoDA").cells
    assert (cells["NIST"].ours, cells["BLEU"].ours.mean) == (None, 50)


def test_auto_prefers_the_paper_then_the_toy_then_shows_the_empty_paper():
    toy, paper = record([*LODA, "seed=0"]), record([*PAPER, "seed=111"])
    for records, expected in (((), "paper"), ((toy,), "toy"), ((toy, paper), "paper")):
        assert filled(*records, profile="auto").profile == expected
    with pytest.raises(LodaError, match="paper, toy"):
        filled(profile="gpt5")


def test_the_toy_is_never_subtracted_from_the_paper():
    records = record([*LODA, "seed=0"]), record([*PAPER, "seed=111"], {"BLEU": 0.69})
    toy, paper = (row_of(filled(*records, profile=name), "LoDA").cells["BLEU"] for name in ("toy", "paper"))
    assert toy.difference is None
    assert paper.difference == pytest.approx(69.0 - 70.2)


def test_the_best_is_marked_at_printed_precision_among_rivals():
    loda = record([*LODA, "seed=0"], {"BLEU": 0.70231})
    others = [
        record([*TOY, f"adapter={name}", "seed=0"], {"BLEU": x}) for name, x in (("lora", 0.70198), ("none", 0.1))
    ]
    for records, best in (((loda,), []), ((loda, *others), ["LoRA", "LoDA"])):
        table = filled(*records)
        assert [row.spec.label for row in table.rows if table.is_best(row, "BLEU", "ours")] == best


def test_table3_compares_within_a_method():
    table = filled(
        *(
            record([*TOY, f"adapter={adapter}", f"adapter.r={r}", "seed=0"], {"BLEU": best - r / 100})
            for adapter, best in (("lora", 0.3), ("loda", 0.6))
            for r in (2, 8)
        ),
        table="table3",
    )
    best = [(row.spec.label, row.spec.r) for row in table.rows if table.is_best(row, "BLEU", "ours")]
    assert best == [("LoRA", 2), ("LoDA", 2)]


def test_commands_fill_exactly_the_missing_seeds():
    commands = filled(record([*LODA, "seed=1"])).commands
    toy = " ".join(TOY)
    assert f"python train.py {toy} adapter=none seed=0" in commands
    assert f"python train.py {toy} adapter=loda seed=0" in commands
    r_loda_plus = "adapter=loda_plus approx=low_rank approx.rank=38 optim.epochs=6 'optim.checkpoint_epochs=[3]'"
    assert f"python train.py -m {toy} {r_loda_plus} seed=0,1" in commands


def test_settings_of_all_runs_select_those_runs():
    table = filled(record([*LODA, "optim.lr=0.5", "seed=0"], {"BLEU": 0.9}), settings=["optim.lr=0.5"])
    assert bleu(row_of(table, "LoDA")).mean == pytest.approx(90)
    assert f"python train.py {' '.join(LODA)} optim.lr=0.5 seed=1" in table.commands
    assert "optim.lr=0.5" in markdown(table).splitlines()[2]
    runs = {run.label: run for run in table_runs("table1", "toy", ["optim.lr=0.5"])}
    assert runs["LoDA, seed 0"].runs[0].name == row_of(table, "LoDA").records[0].run
    assert runs["FT, seed 0"].runs[0].experiment.optim.lr == 0.5  # this row sets another rate


def test_the_command_prints_the_table_and_writes_all_formats(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eval.tables.fill.collect", lambda root: [record([*LODA, "seed=0"])])
    assert command.main(["table1", "--format", "csv", "--profile", "toy", "--outputs", str(tmp_path)]) == 0
    written = {path.suffix: path.read_text() for path in (tmp_path / "tables").iterdir()}
    assert written.keys() == {".md", ".tex", ".csv", ".json"}
    assert capsys.readouterr().out == written[".csv"]
    with pytest.raises(LodaError, match="unknown table 'table9'"):
        command.main(["table9"])


def test_a_table_prints_on_a_terminal_that_lacks_its_characters_and_is_written(tmp_path):
    done = python("-m", "eval.table", "table1", "--profile", "toy", "--outputs", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "BLEU ?" in done.stdout
    assert "BLEU ↑" in (tmp_path / "tables" / "table1.md").read_text(encoding="utf-8")
