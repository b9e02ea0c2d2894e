"""From the many `scores.json` of an outputs folder to typed rows and one `results.jsonl`.

The score stage writes one `scores.json` per (run, checkpoint, split, protocol), which can be judged alone: scores,
cost, the hashes of what determined them, and the provenance. `results.jsonl` is the same objects, one per line in a
fixed order, rebuilt each time; no stage reads it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from loda.atomic import write_text
from loda.cost import Cost
from loda.errors import LodaError
from loda.lab.run import Outputs, run_of
from loda.sealed import loads

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
    cost: Cost
    settings: dict[str, Any]  # the whole experiment
    training: dict[str, Any] | None  # what `loda.lab.training.loop.Training` holds; None where nothing was trained
    hashes: dict[str, str]  # train, decode, data, metrics, predictions, statistics
    provenance: dict[str, Any]  # of training, decoding and scoring


def collect(outputs_root: str | Path) -> list[Record]:
    """Read every `scores.json` below `runs/` and rewrite `results.jsonl` atomically.

    Raises:
        LodaError: a file that is not one well-formed record of the run in whose folder it lies.
    """
    outputs = Outputs(Path(outputs_root))
    records = sorted(
        map(read_record, outputs.scores),
        key=lambda record: (record.run, record.epoch, record.split, record.protocol, record.hashes["decode"]),
    )
    lines = [json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records]
    write_text(outputs.results, "".join(lines))
    return records


def read_record(path: Path) -> Record:
    """Read one `runs/<run>/.../scores.json`.

    Raises:
        LodaError: it is not one well-formed record, or that of another run than the folder's.
    """
    try:
        content = loads(path.read_text(encoding="utf-8"), _refuse_constant)
        record = _record(content)
    except ValueError as error:
        raise LodaError(f"{path}: {error}; delete the file and score that run again") from error
    if record.run != run_of(path):
        raise LodaError(
            f"{path}: holds the scores of run {record.run}, not of {run_of(path)}; move the copied folder out of runs/"
        )
    return record


def _record(content: object) -> Record:
    """`content` as a record; ValueError says which key is unknown, missing or mistyped."""
    values = _fields_of(Record, content)
    cost = Cost(**_fields_of(Cost, values["cost"]))
    for name, score in values["scores"].items():
        if type(score) not in NUMBER:
            raise ValueError(f"score {name} is {score!r}, not a number")
    for name in ("train", "decode", "data", "metrics"):
        if not isinstance(values["hashes"].get(name), str):
            raise ValueError(f"hash {name!r} is missing")
    return Record(**values | {"cost": cost})


def _fields_of(cls: type[Record] | type[Cost], content: object) -> dict[str, Any]:
    """`content`, which must be an object with exactly the fields of `cls`, each of its type; else ValueError."""
    if not isinstance(content, dict):
        raise ValueError(f"{content!r} is not a JSON object")
    types_of = get_type_hints(cls)
    if content.keys() != types_of.keys():
        raise ValueError(
            f"missing keys {sorted(types_of.keys() - content.keys())}, "
            f"unknown keys {sorted(content.keys() - types_of.keys())}"
        )
    for name, declared in types_of.items():
        if type(content[name]) not in _json_types(declared):
            raise ValueError(f"{name} is {content[name]!r}, not a {declared}")
    return content


def _json_types(declared: Any) -> tuple[type, ...]:
    """The types that a value of the declared type has once read from JSON."""
    if isinstance(declared, UnionType):
        return tuple(kind for part in get_args(declared) for kind in _json_types(part))
    plain = dict if declared is Cost else get_origin(declared) or declared
    return NUMBER if plain is float else (plain,)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a score")
