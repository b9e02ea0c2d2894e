"""Intervals and differences of any metric, over test contexts and seeds, from the statistics that scoring keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.figures import differences
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


def run(adapter, values, seed=0, split="test", more_settings=(), **changes):
    """The record of a run whose every score is the mean of `values`, one for each context, and its statistics."""
    overrides = [*TOY, f"adapter={adapter}", f"decode.split={split}", *more_settings, f"seed={seed}"]
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


VALUES = st.lists(st.floats(0, 1, width=16), min_size=CONTEXTS, max_size=CONTEXTS).map(np.array)
SEEDS = st.lists(VALUES, min_size=1, max_size=3)
FEW = settings(max_examples=25, deadline=None)


def sides_of(*groups):
    """Two sides from the values of their seeds, one for each context."""
    names = ("loda", "lora")
    return [
        side(*(run(name, values, seed) for seed, values in enumerate(group)))
        for name, group in zip(names, groups, strict=True)
    ]


def bounds(interval):
    return interval.low, interval.high


@FEW
@given(mine=SEEDS, theirs=SEEDS)
def test_swapped_sides_have_the_other_sign(mine, theirs):
    one, other = sides_of(mine, theirs)
    found, reverse = one.minus(other, "BLEU"), other.minus(one, "BLEU")
    expected = (-reverse.value, -reverse.high, -reverse.low, reverse.p)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(expected, abs=1e-9)


@FEW
@given(values=SEEDS)
def test_identical_sides_do_not_differ(values):
    one, other = sides_of(values, values)
    found = one.minus(other, "BLEU")
    assert found.value == 0
    assert found.low <= 0 <= found.high
    assert found.p > 0.9


@FEW
@given(mine=SEEDS, theirs=SEEDS)
def test_p_is_below_5_percent_just_where_the_interval_leaves_out_0(mine, theirs):
    one, other = sides_of(mine, theirs)
    found = one.minus(other, "BLEU")
    assert found.is_significant == (found.p < 0.05)


@FEW
@given(mine=VALUES, theirs=VALUES, n=st.integers(2, 3))
def test_seeds_that_agree_add_nothing_to_the_contexts(mine, theirs, n):
    (one, other), (ones, others) = sides_of([mine], [theirs]), sides_of([mine] * n, [theirs] * n)
    assert bounds(ones.interval("BLEU")) == pytest.approx(bounds(one.interval("BLEU")), abs=1e-9)
    assert bounds(ones.minus(others, "BLEU")) == pytest.approx(bounds(one.minus(other, "BLEU")), abs=1e-9)


def assert_close(found, theory):
    width = theory.high - theory.low
    assert bounds(found) == pytest.approx((theory.low, theory.high), abs=0.02 * width)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_where_contexts_agree_the_intervals_are_students_and_welchs(n):
    mine, theirs = np.random.default_rng(n).normal(0.5, 0.1, (2, n))
    one, other = sides_of(*([np.full(CONTEXTS, score) for score in scores] for scores in (mine, theirs)))
    assert_close(one.interval("BLEU"), stats.ttest_1samp(mine, 0).confidence_interval())
    found, welch = one.minus(other, "BLEU"), stats.ttest_ind(mine, theirs, equal_var=False)
    assert_close(found, welch.confidence_interval())
    assert found.p == pytest.approx(welch.pvalue, abs=0.005)


@pytest.mark.parametrize(("of_seed", "of_texts"), [(1, 0.2), (1, 1), (0.3, 1)])
def test_three_seeds_cover_the_true_difference(of_seed, of_texts):
    """300 experiments with a true difference of 0; a run's mean deviates by its seed and by its texts.

    The same mean as one run has contexts only: where the seed matters, its intervals hold 0 far too rarely.
    """
    generator, records = np.random.default_rng(0), [run("lora", np.ones(CONTEXTS), seed)[0] for seed in range(3)]
    held = {"seeds": 0, "contexts": 0}
    for _ in range(300):
        hardness = generator.normal(0, 2, CONTEXTS)
        texts = generator.normal(0, of_texts * CONTEXTS**0.5, (2, 3, CONTEXTS))
        scores = hardness + of_seed * generator.normal(size=(2, 3, 1)) + texts
        for kind, values in (("seeds", scores), ("contexts", scores.mean(axis=1, keepdims=True))):
            one, other = (
                side(
                    *(
                        (replace(made, scores={"BLEU": own.mean()}), {"BLEU": np.array(of_mean(own))})
                        for made, own in zip(records, runs, strict=False)
                    ),
                    resamples=400,
                )
                for runs in values
            )
            held[kind] += not one.minus(other, "BLEU").is_significant
    assert held["seeds"] / 300 > 0.92
    assert held["contexts"] < held["seeds"] - (100 if of_seed > of_texts else 3)


def with_loss(made, loss):
    """The validation loss has a score, but no statistics per context."""
    record, statistics = made
    return replace(record, scores=record.scores | {"LOSS": loss}), statistics


def test_a_score_without_statistics_per_context_is_over_seeds_only():
    values, mine, theirs = np.linspace(0, 1, CONTEXTS), [1.20, 1.25, 1.22], [1.30, 1.28, 1.33]
    runs = [
        [with_loss(run(name, values, seed), loss) for seed, loss in enumerate(losses)]
        for name, losses in (("loda", mine), ("lora", theirs))
    ]
    one, other = (side(*each) for each in runs)
    welch = stats.ttest_ind(mine, theirs, equal_var=False).confidence_interval()
    assert_close(one.minus(other, "LOSS"), welch)
    assert "LOSS: nothing is kept for each context, so over seeds only" in compare(one, other)

    single, another = (side(each[0]) for each in runs)
    assert single.interval("LOSS") is None
    assert single.minus(another, "LOSS") is None
    (line,) = [line for line in compare(single, another).splitlines() if line.startswith("LOSS  ")]
    assert line.split() == ["LOSS", "1.2000", "1.3000", "-0.1000"]


def test_a_score_that_one_side_lacks_is_left_out():
    values = np.linspace(0, 1, CONTEXTS)
    one, other = side(with_loss(run("loda", values), 1.2)), side(run("lora", values))
    assert "LOSS" not in compare(one, other) + compare(other, one)


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
    first, second, _, covered, _, header, *lines = compare(side(*loda), side(*lora)).splitlines()
    assert all(made.run in text for text, runs in ((first, loda), (second, lora)) for made, _ in runs)
    assert header.split() == ["A", "B", "A", "-", "B", "p"]
    (line,) = [line for line in lines if line.startswith("BLEU")]
    assert "+0.1000 [+0.1000, +0.1000]" in line
    assert line.endswith("*")
    assert covered.endswith("and other seeds (Student's t)")


@pytest.mark.parametrize(("runs", "said"), [((1, 2), "; A of one run"), ((1, 1), "; A and B of one run")])
def test_what_one_run_leaves_out_is_said(runs, said):
    values = np.linspace(0, 1, CONTEXTS)
    text = compare(*sides_of(*([values] * n for n in runs)))
    assert f"{said}: not over its seed, so that they understate the uncertainty" in text


@pytest.fixture
def filled(monkeypatch):
    """Fills a table of the toy with runs that have statistics."""

    def fill_with(name, runs):
        statistics = {made.run: found for made, found in runs}
        monkeypatch.setattr("eval.tables.bootstrap.read_statistics", lambda outputs, made: statistics[made.run])
        return fill(read(name), "toy", [made for made, _ in runs])

    return fill_with


@pytest.fixture
def table(filled):
    """Table 1 of the toy with LoDA a tenth better than LoRA on every context."""
    values = np.linspace(0.2, 0.8, CONTEXTS)
    runs = [run(name, values + more, seed) for name, more in (("lora", 0), ("loda", 0.1)) for seed in (0, 1)]
    return filled("table1", runs)


def test_a_table_shows_intervals_and_differences_to_one_row_in_its_units(table):
    shown = with_intervals(table, "outputs", "LoRA")
    lines = [line for line in markdown(shown).splitlines() if line.startswith("|")]
    at = next(place for place, line in enumerate(lines) if line.startswith("| LoDA "))
    assert "95% CI" in lines[at + 1]
    assert "**+10.0 (+10.0..+10.0)**" in lines[at + 2]
    assert lines[at + 3].split("|")[4:6] == [" p        ", " 0.002                    "]
    assert "understates" not in markdown(shown)
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


def test_a_table_says_what_one_seed_leaves_out(filled):
    values = np.linspace(0, 0.5, CONTEXTS)
    table = filled("table1", [run("lora", values), run("loda", values + 0.1)])
    text = " ".join(markdown(with_intervals(table, "outputs", "LoRA")).split())
    assert "the interval covers the test contexts only and understates the uncertainty" in text
    assert "its bold ignores that seed" in text


def test_rows_are_compared_at_the_same_r(filled):
    """LoRA gains 0.1 from r = 2 to r = 4, LoDA is 0.02 better at both; LoDA at r = 8 has no LoRA beside it."""
    values, better = np.linspace(0, 0.5, CONTEXTS), {2: 0, 4: 0.1, 8: 0.2}
    runs = [
        run(name, values + better[r] + more, more_settings=[f"adapter.r={r}"])
        for name, more, ranks in (("lora", 0, (2, 4)), ("loda", 0.02, (2, 4, 8)))
        for r in ranks
    ]
    shown = with_intervals(filled("table3", runs), "outputs", "LoRA")
    found = {(row.spec.label, row.spec.r): row.cells["BLEU"].against for row in shown.rows if row.records}
    assert [found["LoDA", r].value for r in (2, 4)] == pytest.approx([2, 2])
    assert found["LoDA", 8] is found["LoRA", 2] is found["LoRA", 4] is None


def test_the_figure_has_a_panel_for_each_metric_and_a_line_for_each_row(filled):
    values = np.linspace(0, 0.5, CONTEXTS)
    runs = [run("lora", values, seed) for seed in (0, 1)] + [run("loda", values + 0.1), run("loda_plus", values - 0.1)]
    table = with_intervals(filled("table1", runs), "outputs", "LoRA")
    panels = differences.draw(table).axes
    assert [axes.get_title() for axes in panels] == ["BLEU", "NIST", "MET", "ROUGE-L", "CIDEr"]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["LoDA", "LoDA+"]
    points = [[container[0].get_xdata()[0] for container in axes.containers] for axes in panels]
    assert points[0] == pytest.approx([10, -10])
    assert all(container[0].get_markerfacecolor() == "white" for container in panels[0].containers)  # one seed
    assert all(axes.get_xlabel().endswith("better →") for axes in panels)
    assert differences.name_of(table) == "table1-toy-against-LoRA"
    assert differences.draw(filled("table1", runs)) is None


def test_labels_make_names_of_files(table):
    names = [differences.name_of(replace(table, baseline=row.spec.label)) for row in table.rows]
    assert "table1-toy-against-LoDA+" in names
    assert "table1-toy-against-FT-Wq-Wv" in names
    assert len(set(names)) == len({row.spec.label for row in table.rows})
