"""Filling a table: which runs a row takes, what is averaged, what is refused; on the toy profile of the real tables."""

import csv
import io
import math
import shlex
import sys
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.results import Record
from eval.table import main, write
from eval.tables.fill import build, select_epoch, statistic
from eval.tables.jobs import jobs
from eval.tables.render import markdown
from eval.tables.spec import Deviation, read
from loda.cost import Cost
from loda.errors import LodaError
from loda.lab.config import compose
from loda.lab.run import Outputs
from tests.eval.score_files import TOY, write_scores

LODA = [*TOY, "adapter=loda"]
S_LODA = [*LODA, "approx=keep40", "optim.epochs=6", "optim.keep_epochs=[3]"]  # as in the toy profile


def line_of(table, label, approx="No"):
    (line,) = [line for line in table.lines if (line.row.label, line.row.approx) == (label, approx)]
    return line


def bleu(line):
    return line.cells["BLEU"].ours


def record(epoch, split, **scores):
    return Record(
        run="run",
        model="toy",
        dataset="toy",
        adapter="loda",
        approx="dense",
        seed=0,
        epoch=epoch,
        split=split,
        protocol="e2e",
        contexts=1,
        scores=scores,
        cost=Cost(1, 1, None, 1, 1, 1, 1.0),
        settings={},
        training=None,
        hashes={"train": "", "decode": "", "data": "", "metrics": ""},
        provenance={},
    )


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9), st.floats(-100, 100))
def test_deviation_is_that_of_a_sample_and_ignores_a_shift(values, shift):
    mean = sum(values) / len(values)
    expected = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    result = statistic([value + shift for value in values], Deviation.sample)
    assert result.n == len(values)
    assert result.mean == pytest.approx(mean + shift, abs=1e-9)
    assert result.deviation == pytest.approx(expected, abs=1e-6)


def test_one_seed_has_no_deviation():
    assert statistic([0.5], Deviation.sample).deviation is None


def test_a_table_may_ask_for_the_deviation_of_the_population():
    assert statistic([1.0, 2.0, 6.0], Deviation.population).deviation == pytest.approx(math.sqrt(14 / 3))


def test_a_score_is_rounded_for_each_seed_where_the_column_says_so(tmp_path):
    """0.474 and 0.476 print as 0.47 and 0.48, so that two values that hardly differ have a deviation."""
    for seed, score in ((0, 0.474), (1, 0.476)):
        write_scores(tmp_path, [*LODA, "dataset.protocol=dart", f"seed={seed}"], {"TER": score, "METEOR": score})
    cells = line_of(build("table2", "toy", tmp_path), "LoDA").cells
    assert cells["TER"].ours.mean == pytest.approx(0.475)
    assert cells["TER"].ours.deviation == pytest.approx(0.01 / math.sqrt(2))
    assert cells["METEOR"].ours.deviation == pytest.approx(0.2 / math.sqrt(2))  # in percent


def test_a_cell_is_the_mean_over_seeds_in_the_units_of_the_column(tmp_path):
    for seed, score in ((0, 0.5), (1, 0.6)):
        write_scores(tmp_path, [*LODA, f"seed={seed}"], {"BLEU": score, "NIST": score})
    line = line_of(build("table1", "toy", tmp_path), "LoDA")
    assert bleu(line).n == 2
    assert bleu(line).mean == pytest.approx(fmean([50, 60]))
    assert bleu(line).deviation == pytest.approx(stdev([50, 60]))
    assert line.cells["NIST"].ours.mean == pytest.approx(0.55)
    assert line.missing_seeds == []


def test_runs_with_other_settings_do_not_enter(tmp_path):
    write_scores(tmp_path, [*LODA, "seed=0"], {"BLEU": 0.5})
    write_scores(tmp_path, [*LODA, "optim.lr=0.5", "seed=1"], {"BLEU": 0.9})
    write_scores(tmp_path, [*LODA, "decode.num_beams=1", "seed=1"], {"BLEU": 0.9})
    write_scores(tmp_path, [*LODA, "decode.split=valid", "seed=1"], {"BLEU": 0.9})
    write_scores(tmp_path, [*LODA, "dataset.protocol=dart", "seed=1"], {"BLEU": 0.9})
    line = line_of(build("table1", "toy", tmp_path), "LoDA")
    assert (bleu(line).n, bleu(line).mean, line.missing_seeds) == (1, 50, [1])


def test_a_row_takes_the_run_that_training_with_its_seed_makes(tmp_path):
    """The table composes a row once for all seeds; `train.py` composes each run with its own."""
    composed = compose([*LODA, "seed=1"])
    path = write_scores(tmp_path, [*LODA, "seed=1"], {})
    assert path == Outputs(tmp_path).run(composed).scores(composed, "epoch-5")


def test_seed_zero_counts(tmp_path):
    write_scores(tmp_path, [*LODA, "seed=0"], {"BLEU": 0.5})
    assert line_of(build("table1", "toy", tmp_path), "LoDA").records[0].seed == 0


def test_each_seed_reports_its_best_epoch_with_all_its_metrics(tmp_path):
    for seed, at_three, at_six in ((0, 0.5, 0.6), (1, 0.8, 0.7)):
        write_scores(tmp_path, [*S_LODA, f"seed={seed}"], {"BLEU": at_three, "NIST": 3.0}, epoch=3)
        write_scores(tmp_path, [*S_LODA, f"seed={seed}"], {"BLEU": at_six, "NIST": 6.0}, epoch=6)
    line = line_of(build("table1", "toy", tmp_path), "S-LoDA", "Keep 40%")
    assert [record.epoch for record in line.records] == [6, 3]
    assert bleu(line).mean == pytest.approx(70)
    assert line.cells["NIST"].ours.mean == pytest.approx(4.5)


def test_a_run_is_missing_until_all_its_kept_epochs_are_scored(tmp_path):
    write_scores(tmp_path, [*S_LODA, "seed=0"], {"BLEU": 0.5}, epoch=3)
    line = line_of(build("table1", "toy", tmp_path), "S-LoDA", "Keep 40%")
    assert line.missing_seeds == [0, 1]


def test_the_selecting_split_decides_and_the_reported_split_is_shown():
    spec = replace(read("table1"), select_split="valid")
    records = [record(5, "valid", BLEU=0.9), record(10, "valid", BLEU=0.1)]
    records += [record(10, "test", BLEU=0.8), record(5, "test", BLEU=0.2)]
    assert select_epoch(records, spec).scores == {"BLEU": 0.2}
    with pytest.raises(LodaError, match="valid"):
        select_epoch(records[1:], spec)


def test_selection_by_another_split_finds_its_scores(tmp_path, monkeypatch):
    spec = replace(read("table1"), select_split="valid")
    monkeypatch.setattr("eval.tables.fill.read", lambda name: spec)
    for epoch, on_valid, on_test in ((3, 0.9, 0.2), (6, 0.1, 0.8)):
        write_scores(tmp_path, [*S_LODA, "decode.split=valid", "seed=0"], {"BLEU": on_valid}, epoch=epoch)
        write_scores(tmp_path, [*S_LODA, "seed=0"], {"BLEU": on_test}, epoch=epoch)
    table = build("table1", "toy", tmp_path)
    assert bleu(line_of(table, "S-LoDA", "Keep 40%")).mean == pytest.approx(20)
    # what is missing names the split, where a choice depends on it
    command = f"python train.py {shlex.join(S_LODA)} {{}}seed=1"
    assert {command.format(""), command.format("decode.split=valid ")} <= set(table.commands)
    assert not any("valid" in line for line in table.commands if "approx=" not in line)


def test_a_run_with_a_choice_is_scored_on_both_splits_by_one_job(monkeypatch):
    """Two jobs might train the same run at the same time."""
    spec = replace(read("table1"), select_split="valid")
    monkeypatch.setattr("eval.tables.jobs.read", lambda name: spec)
    found = {job.label: [e.decode.split for e in job.experiments] for job in jobs("table1", "toy", [])}
    assert found["S-LoDA, seed 0"] == ["test", "valid"]
    assert found["LoDA, seed 0"] == ["test"]


def test_a_lower_ter_is_better():
    spec = replace(read("table2"), select_by="TER")
    records = [record(5, "test", TER=0.5), record(10, "test", TER=0.4)]
    assert select_epoch(records, spec).epoch == 10


def test_equal_epochs_give_the_earlier_one():
    records = [record(10, "test", BLEU=0.5), record(5, "test", BLEU=0.5)]
    assert select_epoch(records, read("table1")).epoch == 5


@pytest.mark.parametrize("kind", ["data", "metrics"])
@pytest.mark.parametrize("other", [[*LODA, "seed=1"], [*TOY, "adapter=lora", "seed=0"]], ids=["cell", "table"])
def test_scores_of_other_data_or_metrics_are_refused(tmp_path, kind, other):
    one = write_scores(tmp_path, [*LODA, "seed=0"], {"BLEU": 0.5})
    two = write_scores(tmp_path, other, {"BLEU": 0.5}, hashes={kind: "other"})
    with pytest.raises(LodaError, match=f"{kind} hashes") as error:
        build("table1", "toy", tmp_path)
    for path in (one, two):
        assert path.relative_to(tmp_path / "runs").parts[0] in str(error.value)


def test_one_run_can_stand_in_tables_of_two_protocols(tmp_path):
    write_scores(tmp_path, [*LODA, "seed=0"], {"BLEU": 0.5})
    write_scores(tmp_path, [*LODA, "dataset.protocol=dart", "seed=0"], {"BLEU": 47.0})
    assert bleu(line_of(build("table1", "toy", tmp_path), "LoDA")).mean == pytest.approx(50)
    assert bleu(line_of(build("table2", "toy", tmp_path), "LoDA")).mean == pytest.approx(47)


def test_the_two_recipes_of_dart_fill_the_table_one_at_a_time_and_are_named(tmp_path):
    paper = ["model=gpt2_medium", "dataset=dart", "adapter=loda"]
    write_scores(tmp_path, [*paper, "seed=110"], {"BLEU": 47.0}, epoch=10)
    write_scores(tmp_path, [*paper, "dataset.protocol=dart_leaderboard", "seed=110"], {"BLEU": 48.0}, epoch=10)
    as_lora = build("table2", "paper", tmp_path)
    leaderboard = build("table2", "paper", tmp_path, ["dataset.protocol=dart_leaderboard"])
    assert bleu(line_of(as_lora, "LoDA")).mean == 47
    assert bleu(line_of(leaderboard, "LoDA")).mean == 48
    assert "Scored by LoRA's recipe" in markdown(as_lora)
    assert "Scored by the recipe of DART's leaderboard" in markdown(leaderboard)
    # the paper's values were scored by LoRA's
    assert line_of(as_lora, "LoDA").cells["BLEU"].difference == pytest.approx(47 - 47.3)
    assert line_of(leaderboard, "LoDA").cells["BLEU"].difference is None


def test_a_protocol_with_other_units_does_not_fill_a_table(tmp_path):
    with pytest.raises(LodaError, match="choose dart or dart_leaderboard"):
        build("table2", "toy", tmp_path, ["dataset.protocol=e2e"])


def test_a_metric_that_only_some_seeds_have_is_refused(tmp_path):
    write_scores(tmp_path, [*LODA, "seed=0"], {})
    write_scores(tmp_path, [*LODA, "seed=1"], {}, without="METEOR")
    with pytest.raises(LodaError, match="METEOR"):
        build("table1", "toy", tmp_path)


def test_a_metric_that_no_seed_has_is_an_empty_cell(tmp_path):
    write_scores(tmp_path, [*LODA, "seed=0"], {}, without="METEOR")
    cells = line_of(build("table1", "toy", tmp_path), "LoDA").cells
    assert cells["METEOR"].ours is None
    assert cells["BLEU"].ours is not None


def test_auto_prefers_the_paper_then_the_toy_then_shows_the_empty_paper(tmp_path):
    assert build("table1", "auto", tmp_path).profile == "paper"
    write_scores(tmp_path, [*LODA, "seed=0"], {})
    assert build("table1", "auto", tmp_path).profile == "toy"
    write_scores(tmp_path, ["model=gpt2_medium", "dataset=e2e", "adapter=loda", "seed=111"], {})
    assert build("table1", "auto", tmp_path).profile == "paper"


def test_the_toy_is_never_subtracted_from_the_paper(tmp_path):
    write_scores(tmp_path, [*LODA, "seed=0"], {})
    write_scores(tmp_path, ["model=gpt2_medium", "dataset=e2e", "adapter=loda", "seed=111"], {"BLEU": 0.69})
    toy, paper = (line_of(build("table1", name, tmp_path), "LoDA").cells["BLEU"] for name in ("toy", "paper"))
    assert toy.difference is None
    assert paper.difference == pytest.approx(69.0 - 70.2)


def test_the_best_is_marked_at_printed_precision_among_rivals(tmp_path):
    write_scores(tmp_path, [*LODA, "seed=0"], {"BLEU": 0.70231})
    table = build("table1", "toy", tmp_path)
    assert not any(table.is_best(line, "BLEU") for line in table.lines)
    write_scores(tmp_path, [*TOY, "adapter=lora", "seed=0"], {"BLEU": 0.70198})
    write_scores(tmp_path, [*TOY, "adapter=none", "seed=0"], {"BLEU": 0.1})
    table = build("table1", "toy", tmp_path)
    assert [line.row.label for line in table.lines if table.is_best(line, "BLEU")] == ["LoRA", "LoDA"]


def test_table3_compares_within_a_method(tmp_path):
    for adapter, best in (("lora", 0.3), ("loda", 0.6)):
        write_scores(tmp_path, [*TOY, f"adapter={adapter}", "adapter.r=2", "seed=0"], {"BLEU": best})
        write_scores(tmp_path, [*TOY, f"adapter={adapter}", "adapter.r=8", "seed=0"], {"BLEU": best - 0.1})
    table = build("table3", "toy", tmp_path)
    best = [(line.row.label, line.row.r) for line in table.lines if table.is_best(line, "BLEU")]
    assert best == [("LoRA", 2), ("LoDA", 2)]


def test_commands_fill_exactly_the_missing_seeds(tmp_path):
    write_scores(tmp_path, [*LODA, "seed=1"], {})
    commands = build("table1", "toy", tmp_path).commands
    assert "python train.py model=toy dataset=toy adapter=none seed=0" in commands
    assert "python train.py model=toy dataset=toy adapter=loda seed=0" in commands
    r_loda_plus = ["adapter=loda_plus", "approx=rank38", "optim.epochs=6", "optim.keep_epochs=[3]"]
    assert shlex.join(["python", "train.py", "-m", "model=toy", "dataset=toy", *r_loda_plus, "seed=0,1"]) in commands


def test_unknown_profile_is_refused(tmp_path):
    with pytest.raises(LodaError, match="paper, toy"):
        build("table1", "gpt5", tmp_path)


def test_write_puts_four_formats_into_tables(tmp_path):
    paths = write(build("table2", "paper", tmp_path), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "tables/table2.md",
        "tables/table2.tex",
        "tables/table2.csv",
        "tables/table2.json",
    ]
    assert all(path.stat().st_size for path in paths)


def test_the_command_line_prints_the_table_and_explains_mistakes_in_one_line(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["table", *arguments, "--outputs", str(tmp_path)])
        main()
        return capsys.readouterr().out

    assert run("table1", "--format", "md") == (tmp_path / "tables" / "table1.md").read_text()
    with pytest.raises(SystemExit) as stopped:
        run("table9")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_settings_of_all_runs_select_those_runs(tmp_path, monkeypatch, capsys):
    write_scores(tmp_path, [*LODA, "optim.lr=0.5", "seed=0"], {"BLEU": 0.9})
    arguments = ["table1", "--profile", "toy", "optim.lr=0.5", "--outputs", str(tmp_path), "--format", "csv"]
    monkeypatch.setattr(sys, "argv", ["table", *arguments])
    main()
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["method"] for row in rows if row["mean"] == "90.0"] == ["LoDA"]
    table = build("table1", "toy", tmp_path, ["optim.lr=0.5"])
    assert "python train.py model=toy dataset=toy optim.lr=0.5 adapter=loda seed=1" in table.commands
    assert "optim.lr=0.5" in markdown(table).splitlines()[2]
