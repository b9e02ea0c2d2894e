"""The first stages of a run: prepare data and base, approximate, train. Each does only what is missing."""

import time
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, set_seed

import loda
from loda.approximation import FrozenTensors
from loda.atomic import discard_folder, write_folder
from loda.checkpoint import CONFIG_FILE, FROZEN_FILE, load_frozen, save_frozen
from loda.config import part_to_dict
from loda.errors import LodaError
from loda.lab.base.files import identity as model_identity
from loda.lab.base.model import load_base
from loda.lab.config import Experiment
from loda.lab.data import load_pairs
from loda.lab.fingerprint import PROTOCOL, data_key, digest
from loda.lab.lock import check_held
from loda.lab.processes import is_main_process
from loda.lab.progress import HIDDEN, Bars
from loda.lab.provenance import provenance
from loda.lab.run import Outputs, RunDir
from loda.lab.training.checkpoints import UNTRAINED, Milestone, checkpoints
from loda.lab.training.examples import FORMAT as ROWS_FORMAT
from loda.lab.training.examples import Row, encoded
from loda.lab.training.loop import pick_device, train
from loda.lab.training.metrics_logger import Journal, open_journal
from loda.lab.training.state import State, load_state, save_state
from loda.model import approximate
from loda.sealed import check_folder, read_json, write_sealed, write_sealed_folder

DEFAULT_THREADS = torch.get_num_threads()


def training_rows(experiment: Experiment, tokenizer: Tokenizer, outputs: Outputs) -> list[Row]:
    """The tokenised training split, from the outputs folder where it is there."""
    dataset = experiment.dataset
    pairs = load_pairs(dataset.name, "train", dataset.path, dataset.variant)
    tokens = {
        "protocol": PROTOCOL,
        "data": data_key(experiment),
        "tokenizer": tokenizer.to_str(),
        "max_length": dataset.max_length,
        "format": ROWS_FORMAT,
    }
    return encoded(outputs.data / f"{dataset.name}-train-{digest(tokens)}", tokenizer, pairs, dataset.max_length)


def frozen_tensors(experiment: Experiment, base: PreTrainedModel, outputs: Outputs) -> FrozenTensors | None:
    """The approximated projections of the base, computed once for all runs that share them; None without any."""
    approx = part_to_dict(experiment.method.approx)
    if approx["name"] == "dense":
        return None
    what = experiment.method.to_dict()
    determining = {"approx": approx} | {name: what[name] for name in ("targets", "joint") if name in what}
    key = digest({"protocol": PROTOCOL, "model": model_identity(experiment.model), **determining})
    folder = outputs.frozen / f"{experiment.model.name}-{approx['name']}-{key}"
    if not folder.exists():
        tensors = approximate(base, experiment.method)
        write_sealed_folder(folder, lambda temporary: save_frozen(tensors, temporary / FROZEN_FILE))
    check_folder(folder)
    return load_frozen(folder / FROZEN_FILE)


def run_training(experiment: Experiment, folder: Path, rows: list[Row], outputs: Outputs, bars: Bars) -> None:
    """Train, unless it was done: afterwards every checkpoint and `train.json` exist.

    A training that was interrupted goes on from its last state. Of several processes only the first writes into the
    run's folder.
    """
    run = outputs.run(experiment)
    if run.trained.exists():
        return
    state = load_state(run.state, run.journal)
    if is_main_process():
        if state is None:
            discard_folder(run.path / "checkpoints")
        write_sealed(run.experiment, describe(experiment))
    started = time.monotonic()
    set_seed(experiment.seed)
    model = load_base(experiment.model, folder)
    loda.inject(model, experiment.method, frozen_tensors(experiment, model, outputs))
    summary = {"cost": asdict(loda.cost(model)), "training": None}
    if experiment.trains:
        with _journal(experiment, run, goes_on=state is not None) as journal:
            done = train(
                model,
                rows,
                experiment.seed,
                experiment.optim,
                experiment.trainer,
                journal,
                keep=lambda mark: _save(model, run, mark),
                bars=bars if is_main_process() else HIDDEN,
                save=lambda now: _save_state(now, run),
                state=state,
            )
        summary["training"] = asdict(done)
    else:
        _save(model, run, UNTRAINED)
    if is_main_process():
        origin = provenance(time.monotonic() - started, pick_device(experiment.trainer.device))
        saved = {mark.label: run.adapter_hash(mark.label) for mark in checkpoints(experiment, len(rows))}
        check_held(run)
        write_sealed(run.trained, {**summary, "checkpoints": saved, "provenance": origin})
        discard_folder(run.state)


def load_trained(experiment: Experiment, folder: Path, label: str, outputs: Outputs) -> PreTrainedModel:
    """The model of one checkpoint, in evaluation mode on the experiment's device.

    Raises:
        LodaError: the checkpoint is not the one that the training saved.
    """
    run = outputs.run(experiment)
    saved = read_json(run.trained).get("checkpoints", {}).get(label)
    if saved not in (None, run.adapter_hash(label)):
        raise LodaError(
            f"{run.checkpoint(label) / CONFIG_FILE} is not what the training saved; restore it from a copy, or delete "
            f"{run.trained} to train again"
        )
    model = load_base(experiment.model, folder)
    frozen = frozen_tensors(experiment, model, outputs)
    loda.from_pretrained(model, run.checkpoint(label), frozen=frozen)
    trained: PreTrainedModel = model.eval().to(pick_device(experiment.trainer.device))
    return trained


def describe(experiment: Experiment) -> dict[str, object]:
    """The settings as plain data."""
    return asdict(experiment) | {"method": experiment.method.to_dict()}


def use_threads(experiment: Experiment) -> None:
    """Set the number of CPU threads that the experiment asks for, whatever an earlier one in this process did."""
    torch.set_num_threads(experiment.trainer.threads or DEFAULT_THREADS)


def _journal(experiment: Experiment, run: RunDir, goes_on: bool) -> Journal:
    if not is_main_process():
        return Journal([])
    return open_journal(run.journal, experiment.logger, run.name, describe(experiment), goes_on)


def _save(model: PreTrainedModel, run: RunDir, mark: Milestone) -> None:
    if is_main_process() and not run.checkpoint(mark.label).exists():
        check_held(run)
        write_folder(run.checkpoint(mark.label), lambda folder: loda.save_pretrained(model, folder))


def _save_state(state: State, run: RunDir) -> None:
    if is_main_process():
        check_held(run)
        save_state(state, run.state, run.journal)
