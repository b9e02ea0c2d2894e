"""Figures and the report, from records: what is shown, and that markup in the data stays text."""

import json

import pytest
import torch

from eval import report
from eval.figures import energy, scores
from eval.tables.fill import fill
from eval.tables.spec import read
from tests.eval.records import TOY, record

FACTS = {"device": "a <fast> CPU", "packages": {"torch": "2.13.0"}, "seconds": 1.5}


def run(adapter, seed, *overrides, **changes):
    """A trained run of the toy with the three scores of Table 2."""
    trained = {"training": {"final_loss": 1.25, "seconds": 3600.0}, "provenance": {"training": FACTS}}
    settings = [*TOY, "dataset.scorer=dart", f"adapter={adapter}", *overrides, f"seed={seed}"]
    return record(settings, {"BLEU": 40.0 + seed, "TER": 0.5}, **trained | changes)


@pytest.fixture(scope="module")
def records():
    longer = ("approx=keep60", "optim.epochs=6", "optim.checkpoint_epochs=[3]")
    approximated = [run("loda", 0, *longer, epoch=epoch) for epoch in (3, 6)]
    return [
        run("lora", 0, cost={"merged_macs_per_token": 196608}),
        *(run("loda", seed) for seed in (0, 1)),
        *approximated,
    ]


def test_a_figure_has_a_point_for_each_value_at_its_macs_merged_where_possible(records):
    table = fill(read("table2"), "toy", records)
    points = {one.label: [(p.x, p.mean, p.approx) for p in one.points] for one in scores.series(table, "BLEU")}
    assert points == {
        "LoRA": [(196608, 40, "No")],
        "LoDA": [(205056, 40.5, "No")],
        "S-LoDA": [(205056, 40, "Keep 60%")],
    }
    drawn = scores.draw(table, "BLEU")
    assert drawn.get_size_inches()[0] == 3.3  # a column of a two-column page
    assert drawn.axes[0].get_title() == "TOY world, not the paper's setting"


def test_where_values_can_be_compared_the_papers_are_drawn_too():
    series = scores.series(fill(read("table3"), "paper", []), "BLEU")
    assert [(one.label, one.is_published, len(one.points)) for one in series] == [
        ("LoRA", True, 10),
        ("LoDA", True, 10),
        ("LoDA+", True, 9),  # one is blank in the paper
    ]


def test_energy_is_that_of_the_singular_values_and_of_the_entries():
    """diag(3, 1): 9 of 10 in the first singular value, and in the largest quarter of the entries."""
    found = energy.kept_energy(torch.diag(torch.tensor([3.0, 1.0])))
    assert found["rank"] == pytest.approx([0.9, 1])
    assert (found["percent"][24], found["percent"][-1]) == (pytest.approx(0.9), 1)


def test_the_report_shows_what_the_outputs_folder_holds(records, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.report.collect", lambda root: records)
    for each in records:
        path = tmp_path / "runs" / each.run / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"step": step, "loss": 3.0, "lr": 0.01, "epoch": step / 10} for step in (10, 20)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "runs" / "lost").mkdir()
    failure = {"overrides": "adapter=lora", "message": "no <memory>"}
    (tmp_path / "runs" / "lost" / "failed.json").write_text(json.dumps(failure))
    weight = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figure2-toy-block0.csv").write_text(energy.to_csv(energy.kept_energy(weight)))

    page = report.write(["table2"], "toy", tmp_path).read_text()
    shown = {path.name for path in (tmp_path / "figures").glob("*.png")}
    names = ("table2-toy-BLEU", "table2-toy-METEOR", "table2-toy-TER", "table2-toy-losses", "figure2-toy-block0")
    assert shown == {f"{name}.png" for name in names}
    assert all(f'id="{name}"' in page for name in names)
    assert "<h1>TOY world, not the paper&#39;s setting: LoDA: report</h1>" in page
    assert ">Table 2: TOY world, not the paper&#39;s setting: GPT2-medium" in page
    assert "FT<sup>Wq,Wv</sup>" in page
    assert "<code>python train.py -m model=toy" in page  # of a row without runs
    assert "seeds missing: 1" in page
    assert "a &lt;fast&gt; CPU" in page
    assert "no &lt;memory&gt;" in page
    assert "4 runs with scores; 4.0 hours of training" in page
    assert page.count("<td>40.0000</td>") == 4  # all scores, one line each
