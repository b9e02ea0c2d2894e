"""The published values and the runs of configs/table: checked by properties that do not repeat the file."""

import copy
import itertools
import math
import re
from decimal import Decimal
from statistics import mean, stdev

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import loda
from eval.tables.runs import experiment_of
from eval.tables.spec import TableSpec, names, overrides, read, seeds
from loda.errors import LodaError
from loda.settings import load

TABLES = names()
PROFILES = [(name, profile) for name in TABLES for profile in read(name).profiles]
D = 1024  # GPT2-medium


def row_of(spec, label, approx="No", r=None):
    (row,) = [row for row in spec.rows if (row.label, row.approx, row.r) == (label, approx, r)]
    return row


def settings(row):
    return {key: value for key, _, value in (item.partition("=") for item in row.run)}


def test_the_tables_have_the_rows_of_the_paper():
    rows = {name: read(name).rows for name in TABLES}
    assert [len(rows[name]) for name in ("table1", "table2", "table3")] == [16, 14, 30]  # one of table1 is ours
    assert [row.label for row in rows["table1"] if not row.published] == ["GPT2 (unadapted)"]
    assert sum(row.quoted for row in rows["table1"]) == 6
    assert [(row.label, row.r) for row in rows["table3"]] == [
        (label, 2**power) for label in ("LoRA", "LoDA", "LoDA+") for power in range(1, 11)
    ]


@pytest.mark.parametrize("name", TABLES)
def test_values_have_the_digits_of_their_column(name):
    spec = read(name)
    for row in spec.rows:
        for column, value in zip(spec.columns.values(), row.values, strict=bool(row.values)):
            if value is not None:
                numbers = value.text.split("±")
                assert [-Decimal(number).as_tuple().exponent for number in numbers] == [column.digits] * len(numbers)


@pytest.fixture(scope="module")
def medium():
    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2Config(n_embd=D, n_layer=24, n_head=16))


def cost_of(row, spec, medium):
    method = experiment_of(overrides(row, spec.profiles["paper"])).method
    return loda.cost(loda.inject(copy.deepcopy(medium), method))


def test_published_macs_are_those_that_the_library_counts(medium):
    """In millions; only LoRA's and full-rank adapters can be merged, and of the latter the paper prints that alone."""
    spec = read("table2")
    for row in spec.rows:
        cost = cost_of(row, spec, medium)
        printed = {"LoRA": (cost.merged_macs_per_token, cost.macs_per_token)}.get(
            row.label, (cost.merged_macs_per_token or cost.macs_per_token,)
        )
        assert row.macs == "/".join(f"{macs / 1e6:.1f}" for macs in printed) + "M", row
        assert (cost.merged_macs_per_token is None) == (row.label.endswith(("LoDA", "LoDA+"))), row


def test_published_parameters_are_ours_or_a_note_gives_ours(medium):
    """The paper's own rows are in units of 2^20, those quoted from others in millions."""
    differing = []
    for spec in (read("table1"), read("table2")):
        for row in spec.rows:
            if row.published and row.trained:
                count = cost_of(row, spec, medium).trainable_parameters
                if row.parameters != f"{count / (1e6 if row.quoted else 2**20):.2f}M":
                    differing.append(row.label)
                    assert any(f"{count:,}" in spec.notes[note] for note in row.notes), (row, count)
    assert differing == ["FT", "Adapter^H", "PreLayer"]


def test_quoted_rows_have_the_hyper_parameters_of_their_source():
    """Li & Liang (2021), Table 6, E2E: learning rate, epochs, batch size; Adapter^H's are unknown, LoRA's are used."""
    source = {
        ("FT", "354.92M"): (5e-5, 5, 10),
        ("Adapter^L", "0.37M"): (8e-5, 10, 5),
        ("Adapter^L", "11.09M"): (5e-5, 5, 5),
        ("PreLayer", "0.35M"): (8e-5, 5, 10),
        ("FT^Top2", "25.19M"): (5e-5, 5, 10),
        ("Adapter^H", "11.09M"): (2e-4, 5, 8),
    }
    spec = read("table1")
    found = {}
    for row in spec.rows:
        if row.quoted:
            experiment = experiment_of(overrides(row, spec.profiles["paper"]))
            optim = experiment.optim
            found[row.label, row.parameters] = (optim.lr, optim.epochs, optim.batch_size)
            assert experiment.decode == experiment_of(spec.profiles["paper"].base).decode
            if row.label == "PreLayer":
                assert experiment.method.adapter.length == 5
    assert found == source


def test_published_ter_is_a_mean_of_three_two_decimal_values():
    """So the paper has three seeds and the sample deviation, and reads TER off a print with two decimals."""
    for row in read("table2").rows:
        ter = row.values[2]
        near = [round(ter.mean) + step / 100 for step in range(40, 55)]
        assert any(
            (f"{mean(three):.3f}", f"{stdev(three):.3f}") == (f"{ter.mean:.3f}", f"{ter.deviation:.3f}")
            for three in itertools.combinations_with_replacement(near, 3)
        ), row


def test_every_published_row_is_printed_in_the_paper(shared):
    """The paper's text has a row per line, with LaTeX in its cells."""
    printed = set()
    for line in (shared / "paper" / "loda_tr2025-130.txt").read_text().splitlines():
        plain = re.sub(r"[${}~]|\\textbf", "", line.replace(r"\pm", "±"))
        joined = re.sub(r"\s*_?\s*±\s*", "±", plain)
        printed.add(tuple(re.findall(r"\d+\.\d+(?:±\d*\.\d+)?", joined)))
    for row in itertools.chain.from_iterable(read(name).rows for name in TABLES):
        counts = re.findall(r"\d+\.\d+", f"{row.macs} {row.parameters}")
        values = [value.text for value in row.values if value is not None]
        assert not values or (*counts, *values) in printed, row


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_every_row_composes(name, profile):
    spec = read(name)
    chosen = spec.profiles[profile]
    experiments = [experiment_of(overrides(row, chosen)) for row in spec.rows if seeds(row, chosen)]
    assert len({(e.method, e.dataset, e.decode, e.optim, e.trainer) for e in experiments}) == len(
        experiments
    )  # no row is run twice
    assert {e.dataset.scorer for e in experiments} == {spec.scorer}
    assert {e.decode.split for e in experiments} == {spec.split}


@pytest.mark.parametrize(("name", "profile"), [each for each in PROFILES if each != ("table3", "toy")])
def test_every_row_is_run_but_those_of_table3_that_the_toy_is_too_narrow_for(name, profile):
    spec = read(name)
    assert all(seeds(row, spec.profiles[profile]) for row in spec.rows)


@pytest.mark.parametrize("profile", ["paper", "toy"])
@pytest.mark.parametrize("name", ["table1", "table2"])
def test_approximated_rows_say_that_they_train_longer_and_score_half_way_too(name, profile):
    spec = read(name)
    epochs = {"paper": (10, (5,)), "toy": (6, (3,))}[profile]
    for row in spec.rows:
        optim = experiment_of(overrides(row, spec.profiles[profile])).optim
        assert ((optim.epochs, optim.checkpoint_epochs) == epochs) == (row.approx != "No"), row


@pytest.mark.parametrize(
    ("profile", "label", "count"),
    [
        ("paper", "LoDA", 3),
        ("paper", "GPT2 (unadapted)", 1),
        ("paper", "One-shot", 1),
        ("toy", "LoDA", 2),
        ("toy", "FT", 1),
    ],
)
def test_an_untrained_row_and_a_quoted_one_of_the_toy_are_run_once(profile, label, count):
    spec = read("table1")
    assert len(seeds(row_of(spec, label), spec.profiles[profile])) == count


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_the_printed_approximation_is_the_one_that_is_run(name):
    for row in read(name).rows:
        printed = row.approx.lower().replace(" ", "").removesuffix("%")
        assert printed == settings(row).get("approx", "no"), row


def test_the_toy_keeps_the_rank_per_width():
    spec = read("table2")
    for row in spec.rows:
        if row.approx.startswith("Rank"):
            paper, toy = (experiment_of(overrides(row, spec.profiles[name])).method.approx for name in ("paper", "toy"))
            assert toy.rank == math.ceil(paper.rank * 128 / D)  # the toy is 128 wide


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best_per": "row"}, "best_per='row'"),
        ({"profiles": {"p": {"base": [], "seeds": [0], "caption": "", "comparable": False}}}, "needs a title_prefix"),
        ({"surprise": 1}, "surprise is not a setting"),
        ({"select_by": "TER"}, "select_by='TER' is no column; choose one of BLEU"),
        ({"rows": [{"label": "LoDA", "run": [], "published": "70.2 8.83"}]}, "'LoDA' publishes 2 values for 1 columns"),
        ({"rows": [{"label": "LoDA", "run": [], "published": "70"}]}, "'70' is not of the form 70.2±.3, 70.2 or -"),
        ({"rows": [{"label": "LoDA", "run": [], "notes": ["why"]}]}, "note 'why' has no text"),
    ],
)
def test_a_mistake_in_a_file_is_said_in_one_sentence(change, message):
    fields = {"title": "", "source": "", "scorer": "e2e", "scored_by": "", "split": "test", "select_split": "test"}
    content = {"name": "t", **fields, "select_by": "BLEU", "best_per": "table", "show": {}, "profiles": {}, "rows": []}
    content["columns"] = {"BLEU": {"unit": "%", "digits": 1}}
    load(TableSpec, content)
    with pytest.raises(LodaError, match=re.escape(message)):
        load(TableSpec, content | change)
