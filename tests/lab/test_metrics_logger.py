"""Every backend shows the same keys and values."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loda.errors import LodaError
from loda.lab import config
from loda.lab.config import LoggerConfig, compose
from loda.lab.training.metrics_logger import MetricsLogger


def test_tensorboard_shows_what_the_json_lines_say(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLogger.open(path, compose(["logger=tensorboard"]).logger, "run", {}, resume=False) as logger:
        logger.log(50, loss=2.5, lr=0.001, epoch=0.5)
        logger.log(100, loss=1.5, lr=0.0005, epoch=1.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "lr", "epoch"}
    for key in ("loss", "lr", "epoch"):
        shown = [(event.step, event.value) for event in events.Scalars(key)]
        assert shown == [(line["step"], pytest.approx(line[key])) for line in lines]


def test_a_logger_that_is_not_installed_names_the_remedy(monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(LodaError, match="pip install wandb"):
        LoggerConfig(name="wandb")


def test_a_journal_that_was_deleted_is_missed_at_the_next_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLogger.open(path, LoggerConfig(), "run", {}, resume=False) as logger:
        logger.log(50, loss=2.5)
        path.unlink()
        with pytest.raises(LodaError, match=r"could not write .*metrics.jsonl: No such file"):
            logger.log(100, loss=1.5)
