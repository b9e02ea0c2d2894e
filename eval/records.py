"""From the many `scores.json` of an outputs folder to typed rows and one `results.jsonl`.

The score stage writes one `scores.json` per (run, checkpoint, split, protocol), which can be judged alone: scores,
cost, the hashes of what determined them, and the provenance. `results.jsonl` is the same objects, one per line in a
fixed order, rebuilt each time; no stage reads it.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_origin

from loda.errors import LodaError
from loda.lab.files import write_text
from loda.lab.paths import Outputs

NUMBER = (int, float)


@dataclass(frozen=True)
class Record:
    """The scores of one checkpoint of one run on one split, by one protocol.

    `scores` are in the units of the official scripts: for E2E BLEU, METEOR and ROUGE_L are
    fractions, NIST and CIDEr raw; for DART and WebNLG BLEU is 0-100, METEOR and TER are fractions.
    """

    run: str
    model: str
    dataset: str
    adapter: str
    approx: str
    seed: int
    epoch: float  # whole, unless `trainer.max_steps` ended the run within one
    split: str
    protocol: str
    contexts: int
    scores: dict[str, float]
    trainable_parameters: int
    macs_per_token: int
    base_macs_per_token: int
    hashes: dict[str, str]  # train, decode, data, metrics
    provenance: dict[str, Any]


def collect(outputs_root: str | Path) -> list[Record]:
    """Read every `scores.json` below `runs/` and rewrite `results.jsonl` atomically.

    Raises:
        LodaError: a file that is not one well-formed record of the run in whose folder it lies.
    """
    outputs = Outputs(Path(outputs_root))
    records = sorted(
        (_read(path, outputs.runs) for path in outputs.runs.rglob("scores.json")),
        key=lambda record: (record.run, record.epoch, record.split, record.protocol, record.hashes["decode"]),
    )
    lines = [json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records]
    write_text(outputs.results, "".join(lines))
    return records


def _read(path: Path, runs: Path) -> Record:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        record = _record(content)
    except ValueError as error:
        raise LodaError(f"{path}: {error}; delete the file and score that run again") from error
    folder = path.relative_to(runs).parts[0]
    if folder != record.run:
        raise LodaError(
            f"{path}: holds the scores of run {record.run}, not of {folder}; move the copied folder out of runs/"
        )
    return record


def _record(content: object) -> Record:
    """`content` as a record; ValueError says which key is unknown, missing or mistyped."""
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    types_of = {field.name: field.type for field in fields(Record)}
    if content.keys() != types_of.keys():
        raise ValueError(
            f"missing keys {sorted(types_of.keys() - content.keys())}, "
            f"unknown keys {sorted(content.keys() - types_of.keys())}"
        )
    for name, declared in types_of.items():
        expected = NUMBER if declared is float else (get_origin(declared) or declared,)
        if type(content[name]) not in expected:
            raise ValueError(f"{name} is {content[name]!r}, not a {declared}")
    for name, score in content["scores"].items():
        if type(score) not in NUMBER:
            raise ValueError(f"score {name} is {score!r}, not a number")
    for name in ("train", "decode", "data", "metrics"):
        if not isinstance(content["hashes"].get(name), str):
            raise ValueError(f"hash {name!r} is missing")
    return Record(**content)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a score")
