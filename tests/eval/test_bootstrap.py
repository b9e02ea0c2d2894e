"""The paired bootstrap: intervals and differences of any metric, from the statistics that scoring keeps."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.results import read_record
from eval.score import add_up
from eval.score.corpus import Corpus, of_mean
from eval.score.metrics import bleu, nist, ter
from eval.tables.bootstrap import Resampled, load_statistics, save_statistics
from eval.tables.fill import build
from eval.tables.intervals import with_intervals
from eval.tables.render import json_text, markdown
from loda.atomic import sha256
from loda.errors import LodaError
from loda.lab.run import STATISTICS, Outputs
from scripts import compare_scores
from tests.eval.score_files import TOY, write_scores

CONTEXTS = 60
TEXTS = st.lists(st.sampled_from(["the", "pub", "is", "cheap", "."]), min_size=5, max_size=9).map(" ".join)
INSTANCES = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=4)


def scored(root, adapter, seed, values, split="test", **changes):
    """The record of a run whose BLEU is the mean of `values`, one for each context, with its statistics."""
    overrides = [*TOY, f"adapter={adapter}", f"decode.split={split}", f"seed={seed}"]
    statistics = of_mean(values)
    path = write_scores(root, overrides, {"BLEU": ter.combine(add_up(statistics), "dart")}, **changes)
    save_statistics(path.with_name(STATISTICS), dict.fromkeys(read_record(path).scores, statistics))
    content = json.loads(path.read_text())
    content["hashes"]["statistics"] = sha256(path.with_name(STATISTICS))
    content["scores"] = dict.fromkeys(content["scores"], content["scores"]["BLEU"])
    path.write_text(json.dumps(content))
    return read_record(path)


def side(root, *records, resamples=1000):
    """These records of runs in `root`, resampled."""
    return Resampled(records, [Outputs(root).run_named(record.run) for record in records], resamples)


@pytest.fixture
def mean_metric(monkeypatch):
    """All metrics are a mean over contexts here, so that what a resample gives is known."""
    monkeypatch.setattr("eval.tables.bootstrap.load_by_key", lambda key: ter)


@pytest.mark.parametrize("protocol", ["e2e", "dart"])
@given(instances=INSTANCES, counts=st.data())
def test_weighted_sums_give_the_score_of_the_corpus_with_repeated_contexts(protocol, instances, counts):
    """BLEU knows nothing of the corpus but its instances, so a resample can be scored as a corpus of its own."""
    times = counts.draw(st.lists(st.integers(0, 3), min_size=len(instances), max_size=len(instances)).filter(any))
    hypotheses, references = zip(*instances, strict=True)
    statistics = np.array(bleu.statistics(Corpus(protocol, hypotheses, references)))
    repeated = [instance for instance, n in zip(instances, times, strict=True) for _ in range(n)]
    alone = Corpus(protocol, *map(tuple, zip(*repeated, strict=True)))
    expected = bleu.combine(add_up(bleu.statistics(alone)), protocol)
    assert bleu.combine((np.array(times) @ statistics).tolist(), protocol) == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("mean_metric")
def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(tmp_path):
    """mean ± 1.96 s / sqrt(n): 60 values are enough for 10 % of its width."""
    values = np.random.default_rng(0).normal(0.5, 0.1, CONTEXTS)
    found = side(tmp_path, scored(tmp_path, "lora", 0, values), resamples=4000).interval("BLEU")
    half = 1.96 * values.std() / CONTEXTS**0.5
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(values.mean(), abs=half / 5)


@pytest.mark.usefixtures("mean_metric")
def test_a_side_against_itself_has_no_difference(tmp_path):
    one = side(tmp_path, scored(tmp_path, "lora", 0, np.linspace(0, 1, CONTEXTS)))
    found = one.minus(one, "BLEU")
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.is_significant


@pytest.mark.usefixtures("mean_metric")
def test_pairing_finds_a_small_difference_that_every_context_shows(tmp_path):
    """Contexts differ by 1, the two sides by 0.01 on each: unpaired, the intervals overlap almost wholly."""
    values = np.linspace(0, 1, CONTEXTS)
    better = side(tmp_path, *(scored(tmp_path, "loda", seed, values + 0.01) for seed in (0, 1)))
    worse = side(tmp_path, *(scored(tmp_path, "lora", seed, values) for seed in (0, 1)))
    found, reverse = better.minus(worse, "BLEU"), worse.minus(better, "BLEU")
    assert found.is_significant
    assert found.value == pytest.approx(0.01)
    assert (found.low, found.high) == (pytest.approx(-reverse.high), pytest.approx(-reverse.low))
    assert found.p == reverse.p < 0.01
    assert better.interval("BLEU").low < worse.interval("BLEU").high


@pytest.mark.usefixtures("mean_metric")
def test_noise_is_not_called_a_difference(tmp_path):
    """Two sides of the same distribution: over 20 pairs, no more than a few intervals of 95 % leave out 0."""
    generator = np.random.default_rng(1)
    sides = [
        side(tmp_path, scored(tmp_path, "lora", seed, generator.normal(0.5, 0.1, CONTEXTS)), resamples=200)
        for seed in range(40)
    ]
    pairs = zip(sides[::2], sides[1::2], strict=True)
    assert sum(left.minus(right, "BLEU").is_significant for left, right in pairs) <= 4


def test_nist_keeps_the_information_of_the_whole_test_set():
    """A resample of one context alone still weighs its words by their frequency in all references."""
    instances = Corpus("e2e", ("a b c d e", "f g h i j"), (("a b c d e",), ("f g h i j",)))
    first, _ = nist.statistics(instances)
    whole = nist.combine(add_up(nist.statistics(instances)), "e2e")
    assert nist.combine(first, "e2e") == pytest.approx(whole)


def test_statistics_that_are_missing_or_changed_are_refused(tmp_path):
    record = scored(tmp_path, "lora", 0, np.ones(CONTEXTS))
    run = Outputs(tmp_path).run_named(record.run)
    load_statistics(record, run)
    (path,) = tmp_path.rglob(STATISTICS)
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(LodaError, match=r"missing or were changed; delete its scores\.json"):
        load_statistics(record, run)
    path.unlink()
    with pytest.raises(LodaError, match="missing or were changed"):
        load_statistics(record, run)


@pytest.mark.usefixtures("mean_metric")
def test_only_what_was_scored_alike_is_compared(tmp_path):
    one = scored(tmp_path, "lora", 0, np.ones(CONTEXTS))
    for other, message in [
        (scored(tmp_path, "loda", 0, np.ones(CONTEXTS), hashes={"metrics": "others"}), "differ in metrics"),
        (scored(tmp_path, "loda", 1, np.ones(CONTEXTS), hashes={"data": "others"}), "differ in data"),
        (scored(tmp_path, "loda", 2, np.ones(CONTEXTS), split="valid"), "different contexts"),
    ]:
        with pytest.raises(LodaError, match=message):
            side(tmp_path, one).minus(side(tmp_path, other), "BLEU")


@pytest.mark.usefixtures("mean_metric")
@pytest.mark.parametrize("by_path", [False, True], ids=["names", "folders of another outputs folder"])
def test_two_groups_of_seeds_from_the_command_line(tmp_path, capsys, by_path):
    values = np.linspace(0, 0.9, CONTEXTS)
    groups = {
        adapter: [scored(tmp_path, adapter, seed, values + shift).run for seed in (0, 1)]
        for adapter, shift in (("loda", 0.1), ("lora", 0))
    }
    loda, lora = ([str(Outputs(tmp_path).run_named(run).path) if by_path else run for run in groups[k]] for k in groups)
    where = [] if by_path else ["--outputs", str(tmp_path)]
    assert compare_scores.main([*loda, "--against", *lora, *where]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("BLEU"))
    assert "+0.1000 [+0.1000, +0.1000]" in line
    assert line.endswith("*")


def test_a_run_that_is_not_there_is_named(tmp_path, capsys):
    assert compare_scores.main(["nothing", "--against", "nothing", "--outputs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: nothing is no run")


@pytest.fixture
def table(tmp_path):
    """Table 1 of the toy with LoDA a tenth better than LoRA on every context."""
    values = np.linspace(0.2, 0.8, CONTEXTS)
    for seed in (0, 1):
        scored(tmp_path, "lora", seed, values)
        scored(tmp_path, "loda", seed, values + 0.1)
    return build("table1", "toy", tmp_path)


@pytest.mark.usefixtures("mean_metric")
def test_a_table_shows_intervals_and_differences_to_one_row_in_its_units(table, tmp_path):
    shown = with_intervals(table, tmp_path, "LoRA")
    lines = [line for line in markdown(shown).splitlines() if line.startswith("|")]
    at = next(place for place, line in enumerate(lines) if line.startswith("| LoDA "))
    assert "95% CI" in lines[at + 1]
    assert "**+10.0 (+10.0..+10.0)**" in lines[at + 2]
    loda = next(row for row in json.loads(json_text(shown))["rows"] if row["method"] == "LoDA")
    cell = loda["cells"]["BLEU"]
    assert cell["mean"] == pytest.approx(60)
    assert cell["low"] < 60 < cell["high"]
    assert cell["against"] == pytest.approx(10)
    assert cell["against_p"] < 0.01
    baseline = next(line for line in shown.lines if line.row.label == "LoRA")
    assert all(each.against is None for each in baseline.cells.values())


@pytest.mark.usefixtures("mean_metric")
def test_the_row_to_compare_with_must_be_there(table, tmp_path):
    with pytest.raises(LodaError, match="'LORA' is no row of table1; choose one of"):
        with_intervals(table, tmp_path, "LORA")
    with pytest.raises(LodaError, match=r"'LoDA\+' has no runs to compare with; run python train\.py"):
        with_intervals(table, tmp_path, "LoDA+")


def test_a_table_without_intervals_does_not_speak_of_them(table):
    assert "% CI" not in markdown(table)
