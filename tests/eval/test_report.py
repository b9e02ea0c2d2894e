"""Figures and the report, from records: what is shown, and that markup in the data stays text."""

import json
import os
import shutil
import subprocess

import pandas as pd
import pytest
import torch

from eval import report
from eval.decode.stage import PREDICTIONS
from eval.figures import energy, losses, nonlinearity, scores
from eval.tables.fill import fill
from eval.tables.spec import read
from loda.lab.data import Instance, identity
from loda.lab.stage import Stage, digest
from loda.linearization import LinearFit
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


def test_the_curves_of_one_r_stand_at_one_place():
    records = [record([*TOY, f"adapter={adapter}", "seed=0"]) for adapter in ("lora", "loda", "loda_plus")]
    (axes,) = scores.draw(fill(read("table3"), "toy", records), "BLEU").axes
    drawn = [
        axes.transAxes.inverted().transform(axes.transData.transform(line.get_xydata()))[0, 0] for line in axes.lines
    ]
    assert drawn == pytest.approx(
        [0.5] * len(drawn), abs=0.06
    )  # beside each other, so that the error bars do not cover each other
    assert len(drawn) >= 3


def test_lines_are_told_apart_without_colours():
    curve = pd.DataFrame({"epoch": [1, 2], "loss": [3.0, 2.0]})
    of_variants = losses.draw([losses.Losses("LoDA", f"r = {r}", curve) for r in (2, 4, 8, 16)])
    fits = [LinearFit(name, "q", 0.1, 0.1) for name in ("h.0", "h.1")]
    of_runs = nonlinearity.draw({"loda": fits, "loda_plus": fits})
    for drawn in (of_variants, of_runs):
        looks = [(line.get_linestyle(), line.get_marker()) for line in drawn.axes[0].lines]
        assert len(set(looks)) == len(looks) > 1


def test_figure_2_marks_what_is_read_off_and_what_the_paper_reads_off():
    kept = {"rank": [(r + 1) / 1024 for r in range(1024)], "percent": [(p + 1) / 100 for p in range(100)]}
    texts = [text.get_text() for axes in energy.draw(kept, "figure2-gpt2_medium-block0").axes for text in axes.texts]
    assert texts == ["rank 300: 29.3%\npaper: > 93%", "40 %: 40.0%\npaper: > 96%"]
    texts = [text.get_text() for axes in energy.draw(kept, "figure2-gpt2_medium-block1").axes for text in axes.texts]
    assert texts == ["rank 300: 29.3%", "40 %: 40.0%"]


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
    assert "adapter=lora seed=1</code>" in page  # of a row with one of its two seeds
    assert "<td>LoRA</td>" in page  # of the costs
    assert "a &lt;fast&gt; CPU" in page
    assert "no &lt;memory&gt;" in page
    assert "4 runs with scores; 4.0 hours of training" in page
    assert page.count("<td>40.0000</td>") == 4  # all scores, one line each


HOSTILE = "</li><script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """The report of runs that hold markup wherever a data set, a model or a failure can put it."""
    root = tmp_path_factory.mktemp("outputs")
    facts, hashes = {"device": HOSTILE, "seconds": 1.0}, {"data": digest(identity("toy", None))}
    records = [run("lora", 0, hashes=hashes, provenance={"training": facts, "decoding": facts})]
    records += [run("loda", seed, hashes=hashes) for seed in (0, 1)]
    place = records[0].place.rpartition("/")[0]
    lines = "".join(json.dumps({"text": f"{HOSTILE} {number}"}) + "\n" for number in range(12))
    Stage(root, place, "decoding").write(lambda folder: (folder / PREDICTIONS).write_text(lines))
    (root / records[0].place).mkdir()
    instances = [Instance(f"{HOSTILE} {number}", (HOSTILE,)) for number in range(12)]
    (root / "runs" / "lost").mkdir()
    (root / "runs" / "lost" / "failed.json").write_text(json.dumps({"overrides": HOSTILE, "message": HOSTILE}))
    (root / "figures").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.report.collect", lambda root: records)
        patch.setattr("eval.report.load", lambda *arguments: instances)
        patch.setattr("eval.tables.bootstrap.read_statistics", lambda root, record: {})  # over seeds only
        return report.write(["table2"], "toy", root)


def test_texts_stand_beside_their_references_and_differences_beside_scores(hostile_page):
    page = hostile_page.read_text()
    assert page.count("<h4>") == page.count("<dt>LoRA</dt>") == 6
    shown = [number for number in range(12) if f"{{{{ 7 * 7 }}}} {number}</h4>" in page]
    assert shown == [number for number in range(12) if f"{{{{ 7 * 7 }}}} {number}</dd>" in page] == [0, 2, 4, 6, 8, 10]
    # BLEU of LoDA, 40.5 of two seeds, minus LoRA's 40: t of one degree of freedom, 12.7 * 0.5 and what quantiles add
    assert "<td>+0.5 (-6.0..+7.0)</td>" in page
    assert 'id="table2-toy-against-LoRA"' in page


@pytest.fixture(scope="module")
def browse():
    """A function that opens a page in a window; returns the document it became, and the lines of the console."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no browser: install chromium (Debian: apt-get install chromium)")
    options = [
        "--headless",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--window-size=500,800",
        "--dump-dom",
    ]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []

    def open_page(path):
        done = subprocess.run([browser, *options, path.as_uri()], capture_output=True, text=True, timeout=300)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


def test_a_browser_shows_hostile_texts_as_texts_without_an_error(hostile_page, browse):
    document, console = browse(hostile_page)
    assert "<title>TOY world, not the paper's setting: LoDA: report</title>" in document
    assert document.count("&lt;script&gt;") == 22  # 3 of each example, 2 of the failure, device in costs and provenance
    assert "<script" not in document
    assert console == []


def test_the_page_is_no_wider_than_a_small_window(hostile_page, browse, tmp_path):
    measured, policy = tmp_path / "measured.html", "<meta http-equiv="
    script = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script>"
    page = hostile_page.read_text().replace(policy, "<meta name=").replace("</body>", f"{script}</body>")
    measured.write_text(page)
    document, _ = browse(measured)
    assert "<title>500 of 500</title>" in document
