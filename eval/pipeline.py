"""One experiment from its settings to its scores: train, decode, score. Each stage does only what is missing.

Everything that can be wrong is checked before anything heavy is loaded, in the order of cost: the scorer's tools, the
data files, the base model's files, the shapes.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from eval.decode.stage import decode, encode_prompts, rules_of
from eval.results import Record, read_record
from eval.score import check_metrics, make_corpus, start
from eval.score.stage import metrics_of, score_decoding, scoring_stage
from loda.atomic import wrap_os_errors, write_text
from loda.errors import LodaError
from loda.lab.base import files as base_files
from loda.lab.base.model import Base, get_base
from loda.lab.base.tokenizer import load_tokenizer, token_id
from loda.lab.data import Instance, group
from loda.lab.device import pick_device
from loda.lab.interrupt import listening
from loda.lab.lock import lock_run
from loda.lab.processes import check_processes, is_main_process, process_count
from loda.lab.run import Run
from loda.lab.training.examples import Example, training_examples, validation_examples
from loda.lab.training.packing import uses_packing
from loda.lab.training.train import train
from loda.settings import load, read_json, settings


@dataclass(frozen=True)
class Inputs:
    """What a run needs beside its settings, checked."""

    base: Base
    tokenizer: Tokenizer
    stop: list[int]
    examples: list[Example]
    validation: list[Example]
    instances: list[Instance]
    prompts: list[list[int]]


def complete(run: Run, wait: bool = True) -> list[Record]:
    """Do what is missing of a run and return its scores, one record for each checkpoint.

    Of several processes only the first decodes and scores; the others return nothing after the training.

    Args:
        run: the run.
        wait: whether to wait for another process that is working on it.

    Raises:
        LodaError: a user error; `LockedError` if another process has the run and `wait` is false, or if this
            is one of several processes.
        Interrupted: a signal asked to stop; what there was to save is saved.
    """
    with wrap_os_errors(run.path, "use"):
        if is_main_process():
            run.failed_file.unlink(missing_ok=True)
        records = find_records(run)
        if records is None:
            inputs = check(run)
            # Over several processes none may wait: the others would reach the training and wait there.
            alone = lock_run(run.path, wait and process_count() == 1) if is_main_process() else nullcontext()
            with listening(), alone:
                records = _do_missing(run, inputs)
        return records


def _do_missing(run: Run, inputs: Inputs) -> list[Record]:
    train(run, inputs.base, inputs.examples, inputs.validation)
    records = []
    for checkpoint in run.checkpoints if is_main_process() else []:
        scoring = partial(start, metrics_of(run.experiment.dataset))
        decoding = decode(run, checkpoint, inputs.base, inputs.tokenizer, inputs.prompts, inputs.stop, scoring)
        records.append(score_decoding(run, checkpoint, decoding, inputs.instances))
    return records


def check(run: Run) -> Inputs:
    """Check and prepare everything that training, decoding and scoring need.

    Raises:
        LodaError: what is wrong.
    """
    experiment, dataset = run.experiment, run.experiment.dataset
    check_processes(experiment)
    device = pick_device(experiment.trainer.device)
    if experiment.decode.int8 and device.type != "cpu":
        raise LodaError(f"decode.int8=true multiplies on the CPU alone, not on {device}; set trainer.device=cpu")
    check_metrics(dataset.scorer, metrics_of(dataset))
    instances = group(run.pairs(experiment.decode.split))
    base = get_base(experiment.model, base_files.locate(experiment.model), run.base_key)
    base.check(experiment)
    uses_packing(experiment, base.shape)
    tokenizer = load_tokenizer(base.folder)
    stop = [token_id(tokenizer, text) for text in experiment.decode.stop]
    rules = rules_of(experiment.decode, stop)
    if rules.num_beams > base.shape.vocab_size:
        raise LodaError(f"decode.num_beams={rules.num_beams} exceeds the {base.shape.vocab_size} tokens; lower it")
    make_corpus(dataset.scorer, [""] * len(instances), instances, experiment.decode.stop)  # are the references sound?
    prompts = encode_prompts(tokenizer, instances, experiment.decode, dataset.max_length)
    examples = training_examples(run, tokenizer) if experiment.trains else []
    validation = validation_examples(run, tokenizer)
    return Inputs(base, tokenizer, stop, examples, validation, instances, prompts)


def find_records(run: Run) -> list[Record] | None:
    """The scores of a run, one record for each checkpoint; None unless all are there and current."""
    records = []
    training = run.training()
    if training is None or training.find() is None:
        return None
    for checkpoint in run.checkpoints:
        adapter = run.checkpoint(checkpoint).find()
        decoding = adapter and run.decoding(checkpoint, adapter).find()
        scoring = decoding and scoring_stage(run, decoding).find()
        if scoring is None:
            return None
        records.append(read_record(run.root, scoring))
    return records


@settings
class Failure:
    """What `failed.json` in the folder of a run says: the overrides that the run was started with, and the error."""

    overrides: str
    message: str


def record_failure(run: Run, overrides: str, message: str) -> None:
    """Write a `Failure`, or say that it cannot be written."""
    try:
        write_text(run.failed_file, json.dumps(asdict(Failure(overrides, message)), indent=2) + "\n")
    except LodaError as error:
        print(f"the failure of {run.name} could not be recorded: {error}", file=sys.stderr)


def read_failure(path: Path) -> Failure:
    """Read a `failed.json`; a damaged one says so as its message."""
    try:
        return load(Failure, read_json(path), str(path))
    except LodaError as error:
        return Failure("", str(error))
