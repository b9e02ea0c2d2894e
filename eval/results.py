"""The scores of every run as typed records, and one results.jsonl with all of them.

A scoring stage holds scores.json, one `Record` that can be judged alone, and statistics.safetensors, what each context
contributes to each score. `results.jsonl` has the same objects, one per line in a fixed order; no stage reads it.

Records that are kept in the repository (`results/`) are two files: NAME.json, and NAME.npz with the statistics. They
hold no text of a data set. A folder of them is read as an outputs folder is, so tables print without a training.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.numpy import load_file

from eval.score import add_up, load_by_key
from loda.atomic import make_folder, sha256, wrap_os_errors, write_file, write_text
from loda.costs import Cost
from loda.errors import LodaError, describe
from loda.lab.run import Outputs
from loda.lab.stage import MANIFEST, Manifest, is_current, read_stage
from loda.manifest import check_files, read_manifest, write_manifest
from loda.settings import load, read_json, settings

SCORES, STATISTICS = "scores.json", "statistics.safetensors"


@settings
class Record:
    """The scores of one checkpoint of one run on one split.

    Attributes:
        run: name of the run.
        checkpoint: its name, such as epoch-5.
        epoch: whole, unless `trainer.max_steps` ended the run within one.
        scores: in the units of the official scripts: for E2E BLEU, METEOR and ROUGE_L are fractions, NIST and CIDEr
            raw; for DART and WebNLG BLEU is 0-100, METEOR and TER are fractions. LOSS is that of the validation split,
            in nats per token.
        settings: the whole experiment.
        training: what `loda.lab.training.loop.Summary` holds; None where nothing was trained.
        hashes: train, decode, data, metrics and base: what the scores depend on; adapter and predictions: of those
            files. Records of November 2026 have no base.
        provenance: of training, decoding and scoring.
    """

    run: str
    model: str
    dataset: str
    adapter: str
    approx: str
    seed: int
    checkpoint: str
    epoch: float
    split: str
    scorer: str
    contexts: int
    scores: dict[str, float]
    cost: Cost
    settings: dict[str, Any]
    training: dict[str, Any] | None
    hashes: dict[str, str]
    provenance: dict[str, Any]

    @property
    def place(self) -> str:
        """The place of its scoring stage below the outputs folder."""
        return f"runs/{self.run}/decode/{self.hashes['decode']}/{self.checkpoint}/{self.split}/{self.scorer}"


def collect(root: str | Path) -> list[Record]:
    """Read every current scoring below `runs/` and every kept record, and rewrite `results.jsonl` atomically.

    What is damaged or in another's place is named on stderr and left out.
    """
    outputs = Outputs(root)
    with wrap_os_errors(outputs.root):
        make_folder(outputs.root)
        lock = FileLock(outputs.root / "lock", fallback_to_soft=False).acquire()
    with lock:  # or of two processes the one that read earlier could write later
        records = _read_all(outputs)
        lines = (json.dumps(vars(each) | {"cost": asdict(each.cost)}, ensure_ascii=False) for each in records)
        write_text(outputs.results, "".join(f"{line}\n" for line in lines))
    return records


def read_record(root: Path, manifest: Manifest) -> Record:
    """The record of a scoring stage.

    Raises:
        LodaError: the stage is damaged, or the record is of another one.
    """
    check_files(root / manifest.place, manifest.files)
    path = root / manifest.place / SCORES
    record = load(Record, read_json(path), str(path))
    if record.place != manifest.place:
        raise LodaError(f"{path} holds the scores of {record.place}; delete the folder and run that command again")
    _check_settings(record)
    return record


def keep(record: Record, statistics: Mapping[str, NDArray[np.float64]], folder: Path) -> None:
    """Write a record into a folder of the repository, without the outputs folder that it came from."""
    path = _kept_path(folder, record)
    arrays = path.with_suffix(".npz")

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **statistics)  # type: ignore[arg-type]

    write_file(arrays, fill)
    kept = replace(record, settings=record.settings | {"outputs": "outputs"})
    write_manifest(path, {"record": asdict(kept), "files": {arrays.name: sha256(arrays)}})


def read_kept(path: Path) -> Record:
    """The record in a file of the repository.

    Raises:
        LodaError: it was altered, or is no record.
    """
    content = read_manifest(path)
    if not {"record", "files"} <= content.keys():
        raise LodaError(f"{path} is not a record of scores; move it out of {path.parent}")
    record = load(Record, content["record"], str(path))
    if path != _kept_path(path.parent, record):
        raise LodaError(f"{path} is a copy of {_kept_path(path.parent, record).name}; move it out of {path.parent}")
    _check_settings(record)
    return record


def read_statistics(root: str | Path, record: Record) -> dict[str, NDArray[np.float64]]:
    """The statistics behind a record by the name of the score, each (contexts, numbers).

    Raises:
        LodaError: they are missing or altered.
    """
    kept = _kept_path(Path(root), record)
    if kept.is_file():
        check_files(kept.parent, read_manifest(kept)["files"])
        with np.load(kept.with_suffix(".npz")) as stored:
            return {name: stored[name] for name in stored.files}
    check_files(Path(root) / record.place, read_stage(Path(root), record.place).files)
    arrays: dict[str, NDArray[np.float64]] = load_file(Path(root) / record.place / STATISTICS)
    return arrays


def check_scores(root: str | Path, record: Record) -> None:
    """Check that the scores of a record are those of its statistics.

    Raises:
        LodaError: one is not, or the statistics are missing or altered.
    """
    statistics = read_statistics(root, record)
    found = {name: load_by_key(name).combine(add_up(rows.tolist()), record.scorer) for name, rows in statistics.items()}
    for name in {*record.scores, *found} - {"LOSS"}:
        value = record.scores.get(name)
        if found.get(name) != value:
            raise LodaError(
                f"{record.run}, {record.checkpoint}: {name} {value} is not that of its statistics, {found.get(name)}; "
                "delete the scores and run the same command again"
            )
    if any(len(rows) != record.contexts for rows in statistics.values()):
        raise LodaError(f"{record.run}, {record.checkpoint}: the statistics are not of {record.contexts} contexts")


def summary(record: Record) -> str:
    """Two lines: which run, and what it scored."""
    scores = "  ".join(f"{name} {value:.4f}" for name, value in record.scores.items())
    return f"{record.run}, epoch {record.epoch:g}, {record.contexts} contexts of {record.split}\n  {scores}"


def headline(record: Record) -> str:
    """Split, epoch and the first of the scores, for lists of runs."""
    name, value = next(iter(record.scores.items()))
    return f"{record.split}, epoch {record.epoch:g}: {name} {value:.4f}"


def _check_settings(record: Record) -> None:
    """Raise LodaError unless a record says of itself what its settings say."""
    chosen, method = record.settings, record.settings["method"]
    stated = {"model": chosen["model"]["name"], "dataset": chosen["dataset"]["name"], "seed": chosen["seed"],
              "adapter": method["adapter"]["name"], "approx": method["approx"]["name"],
              "split": chosen["decode"]["split"], "scorer": chosen["dataset"]["scorer"]}  # fmt: skip
    for name, value in stated.items():
        if getattr(record, name) != value:
            raise LodaError(
                f"{record.run} has {name}={getattr(record, name)!r} over settings of {value!r}; score it again"
            )


def _read_all(outputs: Outputs) -> list[Record]:
    kept = sorted(outputs.root.glob("*.json"))
    scorings = sorted(outputs.runs.glob(f"*/decode/*/*/*/*/{MANIFEST}"))
    records: list[Record] = []
    for read, paths in ((read_kept, kept), (partial(_read_scoring, outputs.root), scorings)):
        for path in paths:
            try:
                record = read(path)
            except Exception as error:  # of one artefact, which must not hide the others
                print(f"left out: {describe(error)}", file=sys.stderr)
            else:
                records += [record] if record else []
    return sorted(records, key=lambda each: (each.run, each.epoch, each.split, each.scorer, each.hashes["decode"]))


def _read_scoring(root: Path, path: Path) -> Record | None:
    """The record of the scoring with the manifest `path`; None if it is outdated, or a batch of a decoding."""
    manifest = read_stage(root, path.parent.relative_to(root).as_posix())
    return read_record(root, manifest) if manifest.stage != "batch" and is_current(root, manifest) else None


def _kept_path(folder: Path, record: Record) -> Path:
    return folder / f"{record.run}-{record.checkpoint}-{record.split}-{record.hashes['decode'][:6]}.json"
