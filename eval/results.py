"""The scores of all runs of an outputs folder: one `Record` for each, and `results.jsonl` with all of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from loda.atomic import sha256, write_file, write_text
from loda.cost import Cost
from loda.errors import LodaError
from loda.lab.run import Outputs, run_of
from loda.settings import load, settings


@settings
class Record:
    """The scores of one checkpoint of one run on one split.

    `scores` are in the units of the official scripts: for E2E BLEU, METEOR and ROUGE_L are fractions, NIST and CIDEr
    raw; for DART and WebNLG BLEU is 0-100, METEOR and TER are fractions.
    """

    run: str
    model: str
    dataset: str
    adapter: str
    approx: str
    seed: int
    epoch: float  # whole, unless `trainer.max_steps` ended the run within one
    split: str
    scorer: str
    contexts: int
    scores: dict[str, float]
    cost: Cost
    settings: dict[str, Any]  # the whole experiment
    training: dict[str, Any] | None  # what the training reports; None where nothing was trained
    hashes: dict[str, str]  # train, decode, data, metrics
    provenance: dict[str, Any]  # of training, decoding and scoring

    def __post_init__(self) -> None:
        for name in ("train", "decode", "data", "metrics"):
            if name not in self.hashes:
                raise LodaError(f"hashes.{name} of {self.run} has no value; score that run again")


def collect(outputs_root: str | Path) -> list[Record]:
    """Every scoring below `runs/`; rewrites `results.jsonl`.

    Raises:
        LodaError: a file that is not one well-formed record of the run in whose folder it lies.
    """
    outputs = Outputs(Path(outputs_root))
    records = sorted(
        map(read_record, outputs.scores),
        key=lambda record: (record.run, record.epoch, record.split, record.scorer, record.hashes["decode"]),
    )
    write_text(outputs.results, "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in records))
    return records


def read_record(path: Path) -> Record:
    """Read one `runs/<run>/.../scores.json`."""
    try:
        record = load(Record, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise LodaError(f"{path}: {error}; delete the file and score that run again") from error
    if record.run != run_of(path):
        raise LodaError(f"{path}: holds the scores of run {record.run}; move the copied folder out of runs/")
    return record


def write_statistics(path: Path, statistics: Mapping[str, Any]) -> None:
    """Keep the statistics of a scored corpus, by the name of the score: (contexts, numbers) each."""
    arrays = {key: np.asarray(rows, dtype=np.float64) for key, rows in statistics.items()}
    write_file(path, lambda temporary: save_file(arrays, temporary))


def read_statistics(outputs_root: str | Path, record: Record) -> dict[str, NDArray[np.float64]]:
    """The statistics behind a record, by the name of the score: (contexts, numbers) each."""
    run = Outputs(Path(outputs_root)).run_named(record.run)
    for path in run.statistics(record.hashes["decode"], record.split, record.scorer):
        if sha256(path) == record.hashes.get("statistics"):
            return dict(load_file(path))
    raise LodaError(f"the statistics behind the scores of {record.run} are missing or were changed; score it again")
