"""A record is checked when it is read: nothing missing, unknown or mistyped comes through."""

import threading
import time
from dataclasses import asdict

import pytest

from eval import results
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


def test_results_never_go_back_in_time(tmp_path, monkeypatch):
    """The process that has read less writes later, unless the other waits for it."""
    older, newer = (record([*TOY, "adapter=loda", f"seed={seed}"]) for seed in (0, 1))
    real, reading = results.write_text, threading.Event()

    def slowly(path, text):
        reading.set()
        time.sleep(0.5 if text.count("\n") == 1 else 0)
        real(path, text)

    monkeypatch.setattr(results, "write_text", slowly)
    results.keep(older, {}, tmp_path)
    first = threading.Thread(target=results.collect, args=[tmp_path])
    first.start()
    assert reading.wait(60)
    results.keep(newer, {}, tmp_path)
    results.collect(tmp_path)
    first.join()
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
