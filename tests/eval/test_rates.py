"""The search of a learning rate: it ends at a minimum that is not at an end, and continues from its record."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.tables.spec import RowSpec
from loda.settings import read_json
from scripts import rates
from scripts.rates import find_rate, search


@given(st.floats(-14, -2))
def test_the_best_has_a_worse_rate_on_either_side(log2_best):
    tried = {}

    def loss_of(rate):
        tried[rate] = abs(math.log2(rate) - log2_best)
        return tried[rate]

    best = search(loss_of)
    assert min(tried) < best < max(tried)
    assert tried[best] == min(tried.values())
    assert abs(math.log2(best) - log2_best) <= 0.5 + 1e-6


def test_a_search_continues_from_its_record(tmp_path, monkeypatch):
    path, row, trained = tmp_path / "rates.json", RowSpec(label="LoRA", run=("adapter=lora",)), []

    def loss_of(settings):
        trained.append(float(settings[-1].removeprefix("optim.lr=")))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return abs(math.log2(trained[-1] / 2e-3))

    monkeypatch.setattr(rates, "validation_loss_of", loss_of)
    with pytest.raises(KeyboardInterrupt):
        find_rate(row, ["adapter=lora", "optim.lr=5"], path)
    assert find_rate(row, ["adapter=lora", "optim.lr=5"], path) == 2e-3
    assert trained == [1e-3, 2e-3, 2e-3, 4e-3]
    assert json.loads(path.read_text())["losses"] == {"0.001": 1.0, "0.002": 0.0, "0.004": 1.0}
    assert find_rate(row, ["adapter=lora", "seed=3"], path) == 2e-3
    assert len(trained) == 7, "other settings are another search"
    assert read_json(path)["settings"] == ["adapter=lora", "seed=3"]
