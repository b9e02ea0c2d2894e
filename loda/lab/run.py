"""A run: the name, digests and places that follow from an experiment, computed once and passed on.

    outputs/
      data/<data set>-train-<hash>/             tokenised examples
      plans/<base>-<approx>-<hash>/             plan.json: the ranks that spend a budget
      approximations/<base>-<approx>-<hash>/    approximated projections
      runs/<slug>-<hash>/
        metrics.jsonl                           losses and learning rates of the training
        state/step-1200/                        what an unfinished training resumes from
        checkpoints/epoch-5/                    adapter_config.json, adapter_model.safetensors, README.md
        training/                               summary; there when the training is complete
        decode/<hash>/settings/                 what the run was started with
        decode/<hash>/epoch-5/test/             predictions.jsonl
                              test/e2e/         scores.json, statistics.safetensors
                              test.batches/     finished batches of an unfinished decoding
        failed.json, running.json, lock         the last failure; who is working on the run
      results.jsonl, lock, tables/, figures/, report.html

Every folder with a manifest.json is a stage (`loda/lab/stage.py`). The name of a run hashes everything that determines
the trained adapters: settings, content of base and data, and `RESULTS_VERSION`. Where files lie, device, number of
processes, threads, logging and decoding batch size are not part of it.
"""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from loda.approx.low_rank import PLAN_VERSION
from loda.config import to_plain
from loda.errors import LodaError
from loda.lab.base import files as base_files
from loda.lab.config import Experiment
from loda.lab.data import Pair, count_pairs, identity, load_pairs
from loda.lab.stage import Manifest, Stage, digest
from loda.lab.training.checkpoints import UNTRAINED, Checkpoint, checkpoints

RESULTS_VERSION = 2
"""Raised by hand whenever a change of the code changes results."""

TRAINED_BY = ("precision", "compile", "max_steps", "valid_examples")
"""The settings of the trainer that a result depends on."""


class Run:
    """The run of an experiment, whether it exists or not."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.root = Path(experiment.outputs)
        self.base_key = digest(base_files.identity(experiment.model))
        self.data_key = digest(identity(experiment.dataset.name, experiment.dataset.path))
        self.train_key = digest(self._train_settings())
        decode = asdict(experiment.decode)
        # What is off is left out, so that a new setting leaves the digests of earlier decodings as they are.
        chosen = {key: value for key, value in decode.items() if value is not False}
        if not experiment.decode.bf16:  # in fp32 it changes nothing
            del chosen["batch_size"]
        self.decode_key = digest([RESULTS_VERSION, chosen])
        self.name = f"{_slug(experiment)}-{self.train_key}"
        self.place = f"runs/{self.name}"
        self.path = self.root / self.place

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints of the finished run; without an adapter the untrained model is the only one."""
        if not self.experiment.trains:
            return [UNTRAINED]
        dataset, trainer = self.experiment.dataset, self.experiment.trainer
        number = count_pairs(dataset.name, "train", dataset.path)
        self._check_data()
        return checkpoints(number, self.experiment.optim, trainer.max_steps)

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of a split of its data set.

        Raises:
            LodaError: they cannot be read, or the files changed since the run was named.
        """
        dataset = self.experiment.dataset
        found = load_pairs(dataset.name, split, dataset.path)
        self._check_data()
        return found

    @property
    def calibration(self) -> int:
        """How many training examples the approximation is calibrated on."""
        number: int = getattr(self.experiment.method.approx, "calibration", 0)
        return number

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def failed_file(self) -> Path:
        return self.path / "failed.json"

    def settings(self) -> Stage:
        """Beside the decoding: runs that only decode differently share the rest of the folder."""
        return Stage(self.root, f"{self.place}/decode/{self.decode_key}/settings", "settings")

    def plan(self) -> Stage | None:
        """The ranks that spend a budget, shared like the approximation; None where the settings say them."""
        if getattr(self.experiment.method.approx, "is_planned", True):
            return None
        return Stage(self.root, f"plans/{self._approximation_name}", "plan")

    def approximation(self) -> Stage | None:
        """The approximated projections, shared by all runs on the same base; None for dense ones."""
        if self.experiment.method.approx.name == "dense":
            return None
        plan = self.plan()
        found = None if plan is None else plan.find()
        inputs = () if found is None else (found,)
        return Stage(self.root, f"approximations/{self._approximation_name}", "approximation", inputs=inputs)

    @property
    def _approximation_name(self) -> str:
        method = self.experiment.method
        more: list[Any] = [chosen for chosen in (method.exclude_modules, method.layers_to_transform) if chosen]
        more += [self.data_key, self.experiment.dataset.max_length] if self.calibration else []
        more += [] if getattr(method.approx, "is_planned", True) else [PLAN_VERSION]
        key = digest([RESULTS_VERSION, self.base_key, to_plain(method.approx), method.targets, method.joint, *more])
        return f"{self.experiment.model.name}-{method.approx.name}-{key}"

    def state(self, step: int) -> Stage:
        return Stage(self.root, f"{self.place}/state/step-{step}", "state", inputs=self._frozen())

    def checkpoint(self, checkpoint: Checkpoint) -> Stage:
        return Stage(self.root, f"{self.place}/checkpoints/{checkpoint.name}", "checkpoint", inputs=self._frozen())

    def training(self) -> Stage | None:
        """The summary of the training, made from its checkpoints; None while one of them is missing."""
        kept = [self.checkpoint(checkpoint).find() for checkpoint in self.checkpoints]
        found = tuple(manifest for manifest in kept if manifest is not None)
        return Stage(self.root, f"{self.place}/training", "training", inputs=found) if len(found) == len(kept) else None

    def decoding(self, checkpoint: Checkpoint, adapter: Manifest) -> Stage:
        place = f"{self.place}/decode/{self.decode_key}/{checkpoint.name}/{self.experiment.decode.split}"
        return Stage(self.root, place, "decoding", inputs=(adapter,))

    def scoring(self, decoding: Manifest, metrics_key: str) -> Stage:
        place = f"{decoding.place}/{self.experiment.dataset.scorer}"
        return Stage(self.root, place, "scoring", key=metrics_key, inputs=(decoding,))

    def _check_data(self) -> None:
        """Called after every reading, because the name of the run says which content was read."""
        dataset = self.experiment.dataset
        if digest(identity(dataset.name, dataset.path)) != self.data_key:
            raise LodaError(
                f"the files in dataset.path={dataset.path} changed while {self.name} was read from them; leave them as "
                "they are until the run is done, and run the same command again"
            )

    def _frozen(self) -> tuple[Manifest, ...]:
        """The approximation under the adapter: its name does not say with which rounding it was computed."""
        stage = self.approximation()
        found = None if stage is None else stage.find()
        return () if found is None else (found,)

    def _train_settings(self) -> dict[str, Any]:
        experiment, trainer = self.experiment, self.experiment.trainer
        settings: dict[str, Any] = {
            "version": RESULTS_VERSION,
            "base": self.base_key,
            "data": self.data_key,
            "max_length": experiment.dataset.max_length,
            "seed": experiment.seed,
            "method": experiment.method.to_dict(),
        }
        if experiment.trains:
            # What is off is left out, so that a new setting leaves the names of earlier runs as they are.
            settings["optim"] = {key: value for key, value in asdict(experiment.optim).items() if value is not None}
            settings["trainer"] = {name: getattr(trainer, name) for name in TRAINED_BY}
            settings["trainer"]["packing"] = trainer.packing != "off"
        return settings


class Outputs:
    """An outputs folder, for what looks at many runs."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.runs = self.root / "runs"
        self.tables = self.root / "tables"
        self.figures = self.root / "figures"
        self.results = self.root / "results.jsonl"
        self.report = self.root / "report.html"

    def find(self, name: str) -> Path:
        """The folder of a run, given by its path or by its name.

        Raises:
            LodaError: there is no such run.
        """
        found = next((path for path in (Path(name), self.runs / name) if path.is_dir()), None)
        if found is None:
            raise LodaError(f"{name} is no run: neither a run's folder nor a name in {self.runs}; see ls there")
        return found.resolve()


def _slug(experiment: Experiment) -> str:
    """The readable part of a run's name, for example gpt2_medium-e2e-loda_plus-r4-low_rank300-s110."""
    adapter, approx = to_plain(experiment.method.adapter), to_plain(experiment.method.approx)
    parts = [experiment.model.name, experiment.dataset.name, adapter["name"]]
    parts += [f"r{adapter['r']}"] if "r" in adapter else []
    first, *others = [
        (key, value) for key, value in approx.items() if key != "name" and isinstance(value, (str, int, float))
    ] or [("", "")]
    parts += [f"{approx['name']}{first[1]}", *(f"{key}{value}" for key, value in others)]
    return "-".join([*parts, f"s{experiment.seed}"])
