"""What of an experiment is there already, and its scores in words. Nothing here loads a model or starts anything."""

from eval.results import Record, read_record
from eval.score import DEFAULT_METRICS, metrics_fingerprint
from loda.errors import LodaError
from loda.lab.config import DatasetConfig, Experiment
from loda.lab.data import count
from loda.lab.fingerprint import digest
from loda.lab.run import Outputs, RunDir
from loda.lab.training.checkpoints import Milestone, checkpoints
from loda.sealed import read_json


def scores_of(experiment: Experiment) -> list[Record]:
    """The scores of a complete experiment, one record for each checkpoint."""
    run = Outputs.of(experiment).run(experiment)
    return [read_record(run.scores(experiment, mark.label)) for mark in marks_of(experiment)]


def is_complete(experiment: Experiment) -> bool:
    """Whether every checkpoint of an experiment has been scored with the present scorer."""
    run = Outputs.of(experiment).run(experiment)
    return all(is_current(run, experiment, mark.label) for mark in marks_of(experiment))


def marks_of(experiment: Experiment) -> list[Milestone]:
    """The checkpoints that an experiment is scored at."""
    return checkpoints(experiment, count(experiment.dataset, "train"))


def summary(record: Record) -> str:
    """Two lines: which run, and what it scored."""
    scores = "  ".join(f"{name} {value:.4f}" for name, value in record.scores.items())
    return f"{record.run}, epoch {record.epoch:g}, {record.contexts} contexts of {record.split}\n  {scores}"


def headline(record: Record) -> str:
    """Split, epoch and the first of the scores, for lists of runs."""
    name, value = next(iter(record.scores.items()))
    return f"{record.split}, epoch {record.epoch:g}: {name} {value:.4f}"


def metrics_of(dataset: DatasetConfig) -> tuple[str, ...]:
    """The metrics that a data set asks for, or those of its protocol."""
    return dataset.metrics or DEFAULT_METRICS[dataset.protocol]


def metrics_key(dataset: DatasetConfig) -> str:
    """Identity of the scorer: protocol, metrics, and the versions their digits depend on."""
    return digest({"protocol": dataset.protocol, "metrics": metrics_fingerprint(metrics_of(dataset))})


def is_current(run: RunDir, experiment: Experiment, label: str) -> bool:
    """Whether scores exist of the present predictions by the present scorer; anything else is computed again."""
    path, summary_file = run.scores(experiment, label), run.decoded(experiment, label)
    if not path.exists():
        return False
    try:
        hashes = read_record(path).hashes
    except LodaError:
        read_json(path)  # damage is told, not overwritten; what remains is a record of another version
        return False
    decoded = read_json(summary_file) if summary_file.exists() else {}
    of_these = "predictions" not in decoded or hashes.get("predictions") in (None, decoded["predictions"])
    if decoded.get("adapter") is not None:
        of_these &= run.trained.exists() and decoded["adapter"] == run.adapter_hash(label)
    return of_these and hashes["metrics"] == metrics_key(experiment.dataset)
