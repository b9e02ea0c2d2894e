"""The paired bootstrap: intervals and differences of any metric, from the statistics that scoring keeps."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.score import add_up
from eval.score.corpus import Corpus, of_mean
from eval.score.metrics import bleu, nist, ter
from eval.tables.bootstrap import Side, compare, with_intervals
from eval.tables.fill import fill
from eval.tables.render import json_text, markdown
from eval.tables.spec import read
from loda.errors import LodaError
from tests.eval.records import SCORES, TOY, record

CONTEXTS = 60
TEXTS = st.lists(st.sampled_from(["the", "pub", "is", "cheap", "."]), min_size=5, max_size=9).map(" ".join)
INSTANCES = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=4)


def run(adapter, values, seed=0, split="test", **changes):
    """The record of a run whose every score is the mean of `values`, one for each context, and its statistics."""
    overrides = [*TOY, f"adapter={adapter}", f"decode.split={split}", f"seed={seed}"]
    made = record(overrides, dict.fromkeys(SCORES, float(np.mean(values))), **changes)
    return made, dict.fromkeys(SCORES, np.array(of_mean(values)))


def side(*runs, resamples=1000):
    return Side(*zip(*runs, strict=True), resamples)


@pytest.fixture(autouse=True)
def mean_metric(monkeypatch):
    """All metrics are a mean over contexts here, so that what a resample gives is known."""
    monkeypatch.setattr("eval.tables.bootstrap.load_by_key", lambda key: ter)


@pytest.mark.parametrize("scorer", ["e2e", "dart"])
@given(instances=INSTANCES, counts=st.data())
def test_weighted_sums_give_the_score_of_the_corpus_with_repeated_contexts(scorer, instances, counts):
    """BLEU depends on nothing but the instances, so a resample can be scored as a corpus."""
    times = counts.draw(st.lists(st.integers(0, 3), min_size=len(instances), max_size=len(instances)).filter(any))
    hypotheses, references = zip(*instances, strict=True)
    statistics = np.array(bleu.statistics(Corpus(scorer, hypotheses, references)))
    repeated = [instance for instance, n in zip(instances, times, strict=True) for _ in range(n)]
    alone = Corpus(scorer, *map(tuple, zip(*repeated, strict=True)))
    expected = bleu.combine(add_up(bleu.statistics(alone)), scorer)
    assert bleu.combine((np.array(times) @ statistics).tolist(), scorer) == pytest.approx(expected, rel=1e-12)


def test_nist_keeps_the_information_of_the_whole_test_set():
    """A resample of one context weighs its words by their frequency in all references."""
    instances = Corpus("e2e", ("a b c d e", "f g h i j"), (("a b c d e",), ("f g h i j",)))
    first, _ = nist.statistics(instances)
    whole = nist.combine(add_up(nist.statistics(instances)), "e2e")
    assert nist.combine(first, "e2e") == pytest.approx(whole)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    """mean ± 1.96 s / sqrt(n): 60 values are enough for 10 % of its width."""
    values = np.random.default_rng(0).normal(0.5, 0.1, CONTEXTS)
    found = side(run("lora", values), resamples=4000).interval("BLEU")
    half = 1.96 * values.std() / CONTEXTS**0.5
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(values.mean(), abs=half / 5)


def test_pairing_finds_a_small_difference_that_every_context_shows():
    """Contexts differ by 1, the two sides by 0.01 on each: unpaired, the intervals overlap almost wholly."""
    values = np.linspace(0, 1, CONTEXTS)
    better = side(*(run("loda", values + 0.01, seed) for seed in (0, 1)))
    worse = side(*(run("lora", values, seed) for seed in (0, 1)))
    found, reverse = better.minus(worse, "BLEU"), worse.minus(better, "BLEU")
    assert found.is_significant
    assert found.value == pytest.approx(0.01)
    assert (found.low, found.high) == (pytest.approx(-reverse.high), pytest.approx(-reverse.low))
    assert found.p == reverse.p < 0.01
    assert better.interval("BLEU").low < worse.interval("BLEU").high


def test_noise_is_not_called_a_difference():
    """Two sides of the same distribution: of 20 intervals of 95 %, at most 4 leave out 0."""
    generator = np.random.default_rng(1)
    sides = [side(run("lora", generator.normal(0.5, 0.1, CONTEXTS)), resamples=200) for _ in range(40)]
    pairs = zip(sides[::2], sides[1::2], strict=True)
    assert sum(left.minus(right, "BLEU").is_significant for left, right in pairs) <= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hashes": {"metrics": "others"}}, "the metrics hashes of"),
        ({"hashes": {"data": "others"}}, "the data hashes of"),
        ({"split": "valid"}, "different contexts"),
    ],
)
def test_only_what_was_scored_alike_is_compared(changes, message):
    one, other = (side(run(name, np.ones(CONTEXTS), **kind)) for name, kind in (("lora", {}), ("loda", changes)))
    with pytest.raises(LodaError, match=message):
        one.minus(other, "BLEU")


def test_two_groups_of_seeds_compared_in_words():
    values = np.linspace(0, 0.9, CONTEXTS)
    loda, lora = ([run(name, values + more, seed) for seed in (0, 1)] for name, more in (("loda", 0.1), ("lora", 0)))
    first, second, _, _, header, *lines = compare(side(*loda), side(*lora)).splitlines()
    assert all(made.run in text for text, runs in ((first, loda), (second, lora)) for made, _ in runs)
    assert header.split() == ["A", "B", "A", "-", "B", "p"]
    (line,) = [line for line in lines if line.startswith("BLEU")]
    assert "+0.1000 [+0.1000, +0.1000]" in line
    assert line.endswith("*")


@pytest.fixture
def table(monkeypatch):
    """Table 1 of the toy with LoDA a tenth better than LoRA on every context."""
    values = np.linspace(0.2, 0.8, CONTEXTS)
    runs = [run(name, values + more, seed) for name, more in (("lora", 0), ("loda", 0.1)) for seed in (0, 1)]
    statistics = {made.run: found for made, found in runs}
    monkeypatch.setattr("eval.tables.bootstrap.read_statistics", lambda outputs, made: statistics[made.run])
    return fill(read("table1"), "toy", [made for made, _ in runs])


def test_a_table_shows_intervals_and_differences_to_one_row_in_its_units(table):
    shown = with_intervals(table, "outputs", "LoRA")
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
    baseline = next(row for row in shown.rows if row.spec.label == "LoRA")
    assert all(each.against is None for each in baseline.cells.values())
    assert "% CI" not in markdown(table)


def test_the_row_to_compare_with_must_be_there(table):
    with pytest.raises(LodaError, match="'LORA' is no row of table1; choose one of"):
        with_intervals(table, "outputs", "LORA")
    with pytest.raises(LodaError, match=r"'LoDA\+' has no runs to compare with; run python train\.py"):
        with_intervals(table, "outputs", "LoDA+")
