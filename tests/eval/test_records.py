"""A record is checked when it is read: nothing missing, unknown or mistyped comes through."""

from dataclasses import asdict

import pytest

from eval.results import Record
from loda.errors import LodaError
from loda.settings import load
from tests.eval.records import TOY, record


@pytest.fixture(scope="module")
def content():
    return asdict(record([*TOY, "adapter=loda", "seed=0"]))


def test_a_record_reads_back(content):
    assert load(Record, content) == record([*TOY, "adapter=loda", "seed=0"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("surprise", 1),
        ("seed", "0"),
        ("epoch", True),
        ("scores", {"BLEU": None}),
        ("scores", {"BLEU": float("nan")}),
        ("cost", {"energy": 1.0}),
    ],
    ids=["unknown", "mistyped", "boolean", "no number", "nan", "no cost"],
)
def test_malformed_content_is_refused_by_name(content, key, value):
    with pytest.raises(LodaError, match=key):
        load(Record, content | {key: value})


def test_a_missing_field_and_half_a_parameter_are_refused(content):
    with pytest.raises(LodaError, match="seed has no value"):
        load(Record, {key: value for key, value in content.items() if key != "seed"})
    with pytest.raises(LodaError, match="trainable_parameters"):
        load(Record, content | {"cost": content["cost"] | {"trainable_parameters": 0.5}})
