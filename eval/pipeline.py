"""One experiment from its settings to its scores: train, decode, score. Each stage does only what is missing.

Everything that can be wrong is checked before anything heavy is loaded, in the order of cost: the scorer's tools, the
data files, the base model's files, the shapes.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import torch
from tokenizers import Tokenizer

from eval.completion import is_complete, is_current, marks_of, metrics_key, metrics_of, scores_of
from eval.decode.stage import decode, encode_prompts, read_texts, write_predictions
from eval.model_card import write_card
from eval.results import Record
from eval.score import check_metrics, score_with_statistics
from eval.score.corpus import Corpus
from eval.score.postprocess import LEADERBOARD, pad_references, prepare
from eval.tables.bootstrap import save_statistics
from loda.atomic import discard_folder, sha256
from loda.config import part_name
from loda.cost import Cost
from loda.errors import LodaError
from loda.lab.base.files import locate
from loda.lab.base.model import load_tokenizer, preflight, token_id
from loda.lab.config import Experiment
from loda.lab.data import Example, load, load_entries, load_pairs
from loda.lab.fingerprint import data_key, decode_key, train_key
from loda.lab.interrupt import listening
from loda.lab.lock import check_held, hold
from loda.lab.processes import check_processes, is_main_process, process_count
from loda.lab.progress import ONE_RUN, Bars
from loda.lab.provenance import provenance
from loda.lab.run import STATISTICS, Outputs, RunDir
from loda.lab.training.checkpoints import Milestone
from loda.lab.training.loop import pick_device
from loda.lab.training.stage import describe, load_trained, run_training, training_rows, use_threads
from loda.sealed import read_json, write_sealed


@dataclass(frozen=True)
class Inputs:
    """What a run needs beside its settings, checked."""

    folder: Path
    tokenizer: Tokenizer
    stop: list[int]
    examples: list[Example]  # what is decoded: every distinct context
    prompts: list[list[int]]  # of these, encoded
    instances: list[Example]  # what is scored: the same, or every entry of the file


def run_experiment(experiment: Experiment, bars: Bars = ONE_RUN, wait: bool = True) -> list[Record]:
    """Do what is missing of an experiment and return its scores, one record for each checkpoint.

    Of several processes (see `loda.lab.processes`) only the first decodes and scores; the others return nothing after
    the training.

    Args:
        experiment: the settings.
        bars: where progress bars stand.
        wait: whether to wait for another process that is working on the same run.

    Raises:
        LodaError: something that the user can mend; `HeldError` if another process has the run and `wait` is false,
            or this is one of several that share it.
        Interrupted: a signal asked to stop (see `loda.lab.interrupt`); what there was to save is saved.
    """
    outputs = Outputs.of(experiment)
    run = outputs.run(experiment)
    if not is_complete(experiment):
        inputs = _check(experiment)
        # Over several processes none may wait: the others would go on to the training and wait there.
        held = hold(run, wait and process_count() == 1) if is_main_process() else nullcontext()
        with listening(), held:
            _do_missing(experiment, inputs, outputs, bars)
    if not is_main_process():
        return []
    if run.failed.exists():
        run.failed.unlink()
    return scores_of(experiment)


def record_failure(run: RunDir, overrides: str, message: str) -> None:
    """Leave what went wrong as `failed.json` in the folder of a run; where that cannot be written, say so."""
    try:
        write_sealed(run.failed, {"overrides": overrides, "message": message})
    except LodaError as error:
        print(f"the failure of {run.name} could not be recorded: {error}", file=sys.stderr)


def _do_missing(experiment: Experiment, inputs: Inputs, outputs: Outputs, bars: Bars) -> None:
    rows = training_rows(experiment, inputs.tokenizer, outputs) if experiment.trains else []
    run_training(experiment, inputs.folder, rows, outputs, bars)
    if not is_main_process():
        return
    for mark in marks_of(experiment):
        _decode(experiment, inputs, mark, outputs, bars)
        check_held(outputs.run(experiment))
        _score(experiment, inputs, mark, outputs)


def _check(experiment: Experiment) -> Inputs:
    dataset = experiment.dataset
    use_threads(experiment)
    check_processes(experiment)
    pick_device(experiment.trainer.device)
    check_metrics(dataset.protocol, metrics_of(dataset))
    source = (dataset.name, experiment.decode.split, dataset.path, dataset.variant)
    examples = load(*source)
    instances = load_entries(*source) if dataset.protocol == LEADERBOARD else examples
    if experiment.trains:
        load_pairs(dataset.name, "train", dataset.path, dataset.variant)
    folder = locate(experiment.model)
    preflight(experiment, folder)
    tokenizer = load_tokenizer(folder)
    stop = [token_id(tokenizer, text) for text in experiment.decode.stop]
    prompts = encode_prompts(tokenizer, examples, experiment.decode, dataset.max_length)
    return Inputs(folder, tokenizer, stop, examples, prompts, instances)


def _decode(experiment: Experiment, inputs: Inputs, mark: Milestone, outputs: Outputs, bars: Bars) -> None:
    run = outputs.run(experiment)
    summary_file, predictions = run.decoded(experiment, mark.label), run.predictions(experiment, mark.label)
    if _is_decoded(run, experiment, mark.label):
        return
    started = monotonic()
    model = load_trained(experiment, inputs.folder, mark.label, outputs)
    made_from = {"adapter": run.adapter_hash(mark.label), "decode": decode_key(experiment)}
    parts = predictions.with_name("parts")
    hypotheses = decode(
        model,
        inputs.stop,
        inputs.prompts,
        experiment.decode,
        mark.label,
        bars,
        parts,
        made_from,
        check=lambda: check_held(run),
    )
    check_held(run)
    write_predictions(predictions, inputs.tokenizer, hypotheses)
    origin = provenance(monotonic() - started, pick_device(experiment.trainer.device))
    hashes = {"predictions": sha256(predictions), "adapter": made_from["adapter"]}
    write_sealed(summary_file, {**hashes, "provenance": origin})
    discard_folder(parts)


def _score(experiment: Experiment, inputs: Inputs, mark: Milestone, outputs: Outputs) -> None:
    dataset, run = experiment.dataset, outputs.run(experiment)
    path, predictions = run.scores(experiment, mark.label), run.predictions(experiment, mark.label)
    if is_current(run, experiment, mark.label):
        return
    started = monotonic()
    trained, decoded = read_json(run.trained), read_json(run.decoded(experiment, mark.label))
    corpus = make_corpus(
        dataset.protocol, read_texts(predictions), inputs.examples, inputs.instances, experiment.decode.stop
    )
    scored = score_with_statistics(corpus, metrics_of(dataset))
    statistics = path.with_name(STATISTICS)
    save_statistics(statistics, {name: found for name, (_, found) in scored.items()})
    record = Record(
        run=run.name,
        model=experiment.model.name,
        dataset=dataset.name,
        adapter=part_name(experiment.method.adapter),
        approx=part_name(experiment.method.approx),
        seed=experiment.seed,
        epoch=mark.epoch,
        split=experiment.decode.split,
        protocol=dataset.protocol,
        contexts=len(inputs.examples),
        scores={name: value for name, (value, _) in scored.items()},
        cost=Cost(**trained["cost"]),
        settings=describe(experiment),
        training=trained["training"],
        hashes={
            "train": train_key(experiment),
            "decode": decode_key(experiment),
            "data": data_key(experiment),
            "metrics": metrics_key(dataset),
            "predictions": decoded["predictions"],
            "statistics": sha256(statistics),
        },
        provenance={
            "training": trained["provenance"],
            "decoding": decoded["provenance"],
            "scoring": provenance(monotonic() - started, torch.device("cpu")),
        },
    )
    check_held(run)
    if experiment.trains:
        write_card(record, run.checkpoint(mark.label), predictions)
    write_sealed(path, asdict(record))  # the last: where it is, all is


def make_corpus(
    protocol: str, texts: list[str], examples: list[Example], instances: list[Example], stop: Sequence[str]
) -> Corpus:
    """Predictions and references as the protocol's scorer reads them.

    Args:
        protocol: see `DatasetConfig`.
        texts: the prediction for each of `examples`.
        examples: the contexts that were decoded.
        instances: what is scored; each has the prediction of its context.
        stop: the marks that end a text.
    """
    if len(texts) != len(examples):
        raise LodaError(f"there are {len(texts)} predictions for {len(examples)} contexts; decode this split again")
    contexts = (example.context for example in examples)
    predicted = dict(zip(contexts, prepare(protocol, texts, stop), strict=True))
    references = [pad_references(protocol, prepare(protocol, instance.references, stop)) for instance in instances]
    hypotheses = (predicted[instance.context] for instance in instances)
    return Corpus(protocol, tuple(hypotheses), tuple(map(tuple, references)))


def _is_decoded(run: RunDir, experiment: Experiment, label: str) -> bool:
    """Whether there are predictions of the present adapter."""
    summary_file = run.decoded(experiment, label)
    return summary_file.exists() and read_json(summary_file).get("adapter") in (None, run.adapter_hash(label))
