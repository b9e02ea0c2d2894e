"""The layout of the outputs folder.

    outputs/
      data/<data set>-<split>-<hash>/          tokenised rows
      frozen/<base>-<approximation>-<hash>/     approximated projections
      runs/<slug>-<hash>/
        experiment.json                        the settings, readable
        train.jsonl                            the journal of the training
        state/                                 of a training that goes on: what it resumes from
        checkpoints/epoch-5/                   adapter_config.json, adapter_model.safetensors
        train.json                             written last: the training is complete
        failed.json                            what went wrong, where a run failed
        decode/<hash>/epoch-5/test/            predictions.jsonl, then decode.json: the decoding is complete
                                   parts/      of one that is not: its finished batches
                                   e2e/        statistics.safetensors, then scores.json, by protocol
        running.json, lock                     who is working on the run
      results.jsonl                            all scores.json, one line each
      tables/                                  rendered tables
      figures/                                 figures as PNG and PDF; the curves of Figure 2 as CSV
      report.html                              everything above that people look at, in one file

A file that exists is complete (see `loda.atomic`); that is how a later run knows what is done. Every file has its hash
in itself or in another (see `loda.sealed`): rows and projections in the listing of their folder, the tensors of an
adapter in adapter_config.json, that in train.json, predictions in decode.json, statistics in scores.json.
"""

from dataclasses import dataclass
from pathlib import Path

from loda.atomic import sha256
from loda.checkpoint import CONFIG_FILE
from loda.config import part_to_dict
from loda.errors import LodaError
from loda.lab.config import Experiment
from loda.lab.fingerprint import decode_key, train_key

STATISTICS = "statistics.safetensors"
"""Beside a score file: what each context contributes to the scores."""


@dataclass(frozen=True)
class RunDir:
    """The folder of one run."""

    path: Path

    @property
    def name(self) -> str:
        """Slug and hash."""
        return self.path.name

    @property
    def experiment(self) -> Path:
        """The settings of the run."""
        return self.path / "experiment.json"

    @property
    def journal(self) -> Path:
        """One JSON object per logged update."""
        return self.path / "train.jsonl"

    @property
    def state(self) -> Path:
        """What an unfinished training resumes from."""
        return self.path / "state"

    @property
    def trained(self) -> Path:
        """Summary of the training; exists when it is complete."""
        return self.path / "train.json"

    @property
    def failed(self) -> Path:
        """Message and traceback of a failed run."""
        return self.path / "failed.json"

    @property
    def lock(self) -> Path:
        """Held by the process that is working on the run."""
        return self.path / "lock"

    @property
    def running(self) -> Path:
        """Which process that is."""
        return self.path / "running.json"

    @property
    def all_scores(self) -> list[Path]:
        """Every score file of the run."""
        return sorted(self.path.glob("decode/*/*/*/*/scores.json"))

    def statistics(self, decode: str, split: str, protocol: str) -> list[Path]:
        """What the scores of one decoding, named by its key, are functions of, for every checkpoint."""
        return sorted(self.path.glob(f"decode/{decode}/*/{split}/{protocol}/{STATISTICS}"))

    def checkpoint(self, label: str) -> Path:
        """The adapters after an epoch, in the library's format."""
        return self.path / "checkpoints" / label

    def adapter_hash(self, label: str) -> str:
        """The sha256 of a checkpoint's configuration, which has those of its tensors.

        Raises:
            LodaError: there is none.
        """
        path = self.checkpoint(label) / CONFIG_FILE
        if not path.is_file():
            raise LodaError(f"{path} is missing; restore it from a copy, or delete {self.trained} to train again")
        return sha256(path)

    def predictions(self, experiment: Experiment, label: str) -> Path:
        """The decoded texts of one checkpoint."""
        return self.path / "decode" / decode_key(experiment) / label / experiment.decode.split / "predictions.jsonl"

    def decoded(self, experiment: Experiment, label: str) -> Path:
        """Summary of the decoding; exists when it is complete."""
        return self.predictions(experiment, label).with_name("decode.json")

    def scores(self, experiment: Experiment, label: str) -> Path:
        """The scores of one checkpoint by one protocol."""
        return self.predictions(experiment, label).parent / experiment.dataset.protocol / "scores.json"


@dataclass(frozen=True)
class Outputs:
    """The outputs folder."""

    root: Path

    @classmethod
    def of(cls, experiment: Experiment) -> "Outputs":
        """The folder that an experiment writes to."""
        return cls(Path(experiment.outputs))

    @property
    def runs(self) -> Path:
        """All run folders."""
        return self.root / "runs"

    @property
    def data(self) -> Path:
        """Tokenised data."""
        return self.root / "data"

    @property
    def frozen(self) -> Path:
        """Approximated projections."""
        return self.root / "frozen"

    @property
    def tables(self) -> Path:
        """Rendered tables."""
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        """Drawn figures, and the data of those that are not drawn from scores."""
        return self.root / "figures"

    @property
    def report(self) -> Path:
        """The report on everything."""
        return self.root / "report.html"

    @property
    def results(self) -> Path:
        """All scores, one line each."""
        return self.root / "results.jsonl"

    @property
    def scores(self) -> list[Path]:
        """Every score file there is."""
        return sorted(path for folder in self.runs.glob("*") for path in RunDir(folder).all_scores)

    @property
    def failures(self) -> list[Path]:
        """The message of every run that failed and has not succeeded since."""
        return sorted(self.runs.glob("*/failed.json"))

    def run_named(self, name: str) -> RunDir:
        """The folder of the run of that name."""
        return RunDir(self.runs / name)

    def find(self, name: str) -> RunDir:
        """The folder of a run, given by its path or by its name in this outputs folder.

        Raises:
            LodaError: there is no such run.
        """
        found = next((run for run in (RunDir(Path(name)), self.run_named(name)) if run.path.is_dir()), None)
        if found is None:
            raise LodaError(f"{name} is no run: neither a run's folder nor a name in {self.runs}; see ls there")
        return RunDir(found.path.resolve())

    def run(self, experiment: Experiment) -> RunDir:
        """The folder of `experiment`, whether it exists or not."""
        return RunDir(self.runs / f"{slug(experiment)}-{train_key(experiment)}")


def run_of(scores: Path) -> str:
    """The name of the run that a score file belongs to by its place."""
    return scores.parents[5].name


def slug(experiment: Experiment) -> str:
    """The readable part of a run's name, for example gpt2_medium-e2e-loda_plus-r4-lowrank300-s110."""
    adapter, approx = part_to_dict(experiment.method.adapter), part_to_dict(experiment.method.approx)
    parts = [experiment.model.name, experiment.dataset.name, adapter["name"]]
    parts += [f"r{adapter['r']}"] if "r" in adapter else []
    parts += [approx["name"] + "".join(str(v) for k, v in approx.items() if k != "name")]
    return "-".join([*parts, f"s{experiment.seed}"])
