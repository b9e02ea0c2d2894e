"""A row has its cost before anything is run or downloaded, and it is the cost that a run measures."""

import csv
import io
import json
import shutil
from dataclasses import replace

import pytest

import loda
from eval.tables.fill import fill
from eval.tables.render import comma_separated, markdown
from eval.tables.runs import experiment_of
from eval.tables.spec import names, read
from loda.errors import LodaError
from loda.lab.base.files import SHIPPED
from loda.lab.base.model import Base, cost_by_shape, load_base
from loda.lab.config import compose
from loda.lab.run import Run
from tests.eval.records import TOY, record


def empty(name, profile, *settings):
    return fill(read(name), profile, (), settings)


def by_label(table):
    return {row.spec.label: row.cost for row in table.rows}


@pytest.mark.parametrize(("name", "profile"), [(name, profile) for name in names() for profile in read(name).profiles])
def test_an_empty_table_has_the_cost_of_every_row_that_is_run(name, profile, monkeypatch):
    monkeypatch.setattr("loda.lab.base.files.snapshot_download", None)
    table = empty(name, profile)
    run = [bool(row.overrides) for row in table.rows for _ in table.spec.columns]
    lines = list(csv.DictReader(io.StringIO(comma_separated(table))))
    for column in ("trainable_parameters", "macs_per_token", "model_macs_per_token"):
        assert [line[column] != "" for line in lines] == run


def test_the_costs_of_gpt2_medium_are_the_published_ones():
    lines = [line.split("|") for line in markdown(empty("table2", "paper")).splitlines() if "| ours " in line]
    found = {(line[1].split()[0], line[2].strip()): (line[3].strip(), line[5].strip()) for line in lines}
    assert found["LoRA", "No"] == ("75.5/75.9M", "0.38M")
    assert found["R-LoDA+", "Rank300"] == ("30.1M", "0.38M")
    for row in read("table2").rows[1:]:  # of the first, the paper prints the merged alone
        assert found[row.label, row.approx] == (row.macs, row.parameters)


@pytest.mark.parametrize("name", [name for name in names() if "toy" in read(name).profiles])
def test_what_is_counted_by_shapes_is_what_the_loaded_model_has(name):
    base = Base(compose(TOY).model, SHIPPED, Run(compose(TOY)).base_key)
    for row in empty(name, "toy").rows:
        if not row.overrides:
            continue
        method = experiment_of(row.overrides).method
        # Without calibration, which changes weights and not their number; and what a plan costs is its budget.
        plain = {"calibration": 0, "allocation": "uniform"}
        known = {name: value for name, value in plain.items() if hasattr(method.approx, name)}
        method = replace(method, approx=replace(method.approx, **known))
        with base.adapted(method, None) as model:
            measured = loda.cost(model)
        assert replace(row.cost, energy=0.0) == replace(measured, energy=0.0), row.spec


def test_a_run_says_what_its_row_costs():
    measured = record([*TOY, "adapter=loda", "seed=0"], cost={"trainable_parameters": 7})
    costs = by_label(fill(read("table1"), "toy", [measured]))
    assert (costs["LoDA"].trainable_parameters, costs["LoDA+"].trainable_parameters) == (7, 8448)


def test_a_base_that_is_not_there_leaves_the_cells_empty(tmp_path):
    table = empty("table1", "paper", "model=local", f"model.path={tmp_path}/lost")
    assert set(by_label(table).values()) == {None}
    assert "| LoDA                 | No        | -           | ours " in markdown(table)


def test_a_local_base_is_counted_by_its_own_shape_and_a_row_that_does_not_fit_stays_empty():
    """Rank 300 exceeds the toy's width of 128."""
    costs = by_label(empty("table1", "paper", "model=local", f"model.path={SHIPPED}"))
    assert (costs["LoDA"].trainable_parameters, costs["R-LoDA"]) == (8448, None)


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_the_shape_in_the_config_has_the_parameters_in_the_config(size, monkeypatch):
    monkeypatch.setattr("loda.lab.base.model.find_config", lambda config: None)
    experiment = compose([f"model=gpt2_{size}", "adapter=finetune"])
    assert cost_by_shape(experiment.model, experiment.method).trainable_parameters == experiment.model.parameters


def test_a_shape_of_a_million_layers_is_refused(tmp_path):
    folder = shutil.copytree(SHIPPED, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 10**6}))
    experiment = compose(["model=local", f"model.path={folder}", "dataset=toy"])
    with pytest.raises(LodaError, match="has 1,000,000 layers"):
        Base(experiment.model, folder, "").check(experiment)


def test_a_folder_of_another_shape_is_refused(tmp_path):
    folder = shutil.copytree(SHIPPED, tmp_path / "base")
    experiment = compose([f"model.path={folder}", "model.parameters=null"])
    checks = [
        lambda: Base(experiment.model, folder, "").check(experiment),
        lambda: load_base(experiment.model, folder),
        lambda: cost_by_shape(experiment.model, experiment.method),
    ]
    for check in checks:
        with pytest.raises(LodaError, match="has n_embd=128, model=gpt2_medium has 1024"):
            check()


def test_the_shape_does_not_name_the_run():
    shaped = compose(["model=gpt2_medium"])
    assert Run(shaped).name == Run(replace(shaped, model=replace(shaped.model, shape=None))).name


def test_more_than_dense_is_warned_of():
    # Rank 100 of 128 x 384 takes 100 * (128 + 384) = 51,200 multiply-accumulates, the weight 49,152.
    experiment = compose(["model=local", f"model.path={SHIPPED}", "dataset=toy", "approx=low_rank", "approx.rank=100"])
    with pytest.warns(UserWarning, match=r"rank=100.* computes more than .*: 51,200 .* 128 x 384 = 49,152"):
        Base(experiment.model, SHIPPED, "").check(experiment)


def test_ranks_that_a_plan_has_yet_to_find_are_not_warned_of(recwarn):
    settings = ["approx=auto", "approx.budget=0.5", "targets=all"]
    experiment = compose(["model=local", f"model.path={SHIPPED}", "dataset=toy", *settings])
    Base(experiment.model, SHIPPED, "").check(experiment)
    assert not [str(warning.message) for warning in recwarn if "computes more than" in str(warning.message)]
