"""A finished run beside LoRA's code and the paper, point by point: where to look when a score disagrees.

The points, what the two say and where they say it are data: `configs/protocol.yaml`. What the run says comes from its
`scores.json` files, which hold its settings, and from its checkpoints. Facts that are no settings:

    schedule, updates, trained                  of the training
    trainable_parameters, base_fingerprint      of the model
    data.train, data.valid, data.test           git blob ids of the files, their first 8 digits
    contexts, metrics, scoring.metrics_hash     of the scoring
    training.packages.*, scoring.packages.*     versions
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from eval.records import Record, read_record
from loda.checkpoint import CONFIG_FILE
from loda.errors import LodaError
from loda.lab.config import CONFIG_FOLDER, restore
from loda.lab.data import identity
from loda.lab.fingerprint import digest
from loda.lab.paths import Outputs, RunDir
from loda.sealed import read_json

FILE = CONFIG_FOLDER / "protocol.yaml"
Facts = dict[str, list[str]]
"""By name the distinct values that the score files of a run have, as they are printed."""


@dataclass(frozen=True)
class Side:
    """What LoRA's code or the paper says: values of which any will do (none: not stated for this data set)."""

    values: list[str]
    source: str


@dataclass(frozen=True)
class Point:
    """One thing that determines a score; see `configs/protocol.yaml`."""

    section: str
    setting: str
    reference: Side
    paper: Side
    here: str | None = None
    only: dict[str, list[str]] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Finding:
    """What a run has at one point, and whether that is another thing than the two sides say."""

    point: Point
    run: list[str]
    differs_from_reference: bool
    differs_from_paper: bool

    @property
    def differs(self) -> bool:
        """Whether it differs from either."""
        return self.differs_from_reference or self.differs_from_paper


def find_run(name: str, outputs: Path) -> RunDir:
    """The folder of a finished run, by its path or by its name in the outputs folder.

    Raises:
        LodaError: there is none, or it has no scores yet.
    """
    run = Outputs(outputs).find(name)
    if not run.trained.is_file() or not run.all_scores:
        reason = "its last attempt failed, see failed.json there" if run.failed.is_file() else "repeat its command"
        missing = "scores.json" if run.trained.is_file() else "train.json"
        raise LodaError(f"{run.path} is not finished, it has no {missing}; {reason}")
    return run


def read_run(run: RunDir) -> list[Record]:
    """The scores of a run, by epoch, split and protocol.

    Raises:
        LodaError: a malformed score file.
    """
    records = map(read_record, run.all_scores)
    return sorted(records, key=lambda record: (record.epoch, record.split, record.protocol))


def counterpart(dataset: str) -> str:
    """The data set whose published values a run on `dataset` is held against.

    Raises:
        LodaError: nothing is published for it.
    """
    known: dict[str, str] = _content()["data_sets"]
    if dataset not in known:
        raise LodaError(f"{FILE.name} says nothing about dataset.name={dataset!r}; add it to data_sets there")
    return known[dataset]


def points(dataset: str) -> list[Point]:
    """All points, with the values for one of the published data sets."""
    sections: dict[str, list[dict[str, Any]]] = _content()["sections"]
    return [_point(section, node, dataset) for section, nodes in sections.items() for node in nodes]


def sources() -> dict[str, str]:
    """What the names of the sources stand for."""
    found: dict[str, str] = _content()["sources"]
    return found


def facts(run: RunDir, records: Sequence[Record]) -> Facts:
    """What a run says of itself; a run that trained nothing has no settings of the training.

    Raises:
        LodaError: the run was made with settings that this version does not have.
    """
    merged: Facts = {}
    for record in records:
        for name, value in (_settings(record) | _measured(record) | {"base_fingerprint": _base(run)}).items():
            values = merged.setdefault(name, [])
            values += [text for text in [_text(value)] if text not in values]
    return merged


def compare(found: Facts, against: Sequence[Point]) -> list[Finding]:
    """The points that a run has to do with, each with its difference."""
    findings = []
    for point in against:
        values = [point.here] if point.here is not None else found.get(point.setting, [])
        meant = all(set(found.get(name, [])) & set(allowed) for name, allowed in point.only.items())
        if values and meant:
            findings.append(Finding(point, values, _differs(values, point.reference), _differs(values, point.paper)))
    return findings


def _differs(values: list[str], side: Side) -> bool:
    return bool(side.values) and not set(values) <= set(side.values)


def _content() -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(FILE))
    return dict(content)


def _point(section: str, node: dict[str, Any], dataset: str) -> Point:
    reference, paper = (_side(node.pop(key, None), dataset) for key in ("reference", "paper"))
    only = {name: [_text(value) for value in allowed] for name, allowed in node.pop("only", {}).items()}
    here = _text(node.pop("here")) if "here" in node else None
    return Point(section=section, reference=reference, paper=paper, here=here, only=only, **node)


def _side(node: dict[str, Any] | None, dataset: str) -> Side:
    if node is None:
        return Side([], "")
    value = node["value"]
    if isinstance(value, dict):
        value = value.get(dataset, [])
    return Side([_text(one) for one in (value if isinstance(value, list) else [value])], node["source"])


def _settings(record: Record) -> dict[str, Any]:
    groups = ["model", "method", "dataset", "decode"]
    groups += ["optim", "trainer", "seed"] if record.training is not None else []
    flat = _flat({group: record.settings[group] for group in groups})
    revision = flat["model.revision"]
    return flat | {"model.revision": revision and revision[:12]}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def _measured(record: Record) -> dict[str, Any]:
    measured = {
        "trained": record.training is not None,
        "trainable_parameters": record.cost.trainable_parameters,
        "contexts": record.contexts,
        "metrics": " ".join(record.scores),
        "scoring.metrics_hash": record.hashes["metrics"],
        **{f"data.{split}": blob for split, blob in _files(record).items()},
    }
    for stage in ("training", "scoring") if record.training is not None else ("scoring",):
        packages = record.provenance[stage]["packages"]
        measured |= {f"{stage}.packages.{package}": version for package, version in packages.items()}
    if record.training is not None:
        optim = record.settings["optim"]
        end = "the run" if optim["schedule_epochs"] == optim["epochs"] else f"epoch {optim['schedule_epochs']}"
        measured |= {"updates": record.training["steps"], "schedule": f"linear to the end of {end}"}
    return measured


def _files(record: Record) -> dict[str, str]:
    """The blob ids of the files that were read, which are those that the code knows if their hash is the same."""
    try:
        known = identity(restore(record.settings).dataset)
    except LodaError as error:
        raise LodaError(f"{record.run} is of another version of this software ({error}); run it again") from error
    same = digest(known) == record.hashes["data"]
    return {split: blob[:8] if same else "other" for split, blob in known["files"].items()}


def _base(run: RunDir) -> str:
    """The fingerprint of the base that the adapters were trained on; all checkpoints of a run have the same."""
    saved = next((run.path / "checkpoints").glob(f"*/{CONFIG_FILE}"), None)
    if saved is None:
        return "unknown"
    return str(read_json(saved)["base_fingerprint"])[:12]


def _text(value: object) -> str:
    """As settings are written: 1e-06, true, none, q, v; line breaks as \\n."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace("\n", "\\n")
