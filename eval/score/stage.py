"""The scoring stage: scores.json and the statistics that the scores are functions of."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from eval.decode.stage import read_texts
from eval.model_card import write_card
from eval.results import SCORES, STATISTICS, Record, read_record
from eval.score import DEFAULT_METRICS, make_corpus, metrics_fingerprint, score_with_statistics
from loda.costs import Cost
from loda.lab.base import files as base_files
from loda.lab.config import DatasetConfig
from loda.lab.data import Instance
from loda.lab.provenance import provenance
from loda.lab.run import Run
from loda.lab.stage import Manifest, Stage, digest
from loda.lab.training.checkpoints import Checkpoint


def metrics_of(dataset: DatasetConfig) -> tuple[str, ...]:
    """The metrics that a data set asks for, or those of its scorer."""
    return dataset.metrics or DEFAULT_METRICS[dataset.scorer]


def scoring_stage(run: Run, decoding: Manifest) -> Stage:
    """Where the scores of a decoding belong. Another scorer or version of a metric makes them stale."""
    dataset = run.experiment.dataset
    return run.scoring(decoding, digest([dataset.scorer, metrics_fingerprint(dataset.scorer, metrics_of(dataset))]))


def score_decoding(run: Run, checkpoint: Checkpoint, decoding: Manifest, instances: list[Instance]) -> Record:
    """Score the texts of one checkpoint, unless it was done, and write the adapter's model card."""
    stage = scoring_stage(run, decoding)
    found = stage.find()
    if found is not None:
        return read_record(run.root, found)
    started, dataset, training = time.monotonic(), run.experiment.dataset, run.training()
    assert training is not None
    corpus = make_corpus(dataset.scorer, read_texts(run.root, decoding), instances, run.experiment.decode.stop)
    scored = score_with_statistics(corpus, metrics_of(dataset))
    statistics = {name: np.asarray(rows, dtype=np.float64) for name, (_, rows) in scored.items()}
    origin = provenance(time.monotonic() - started, torch.device("cpu"))
    scores = {name: value for name, (value, _) in scored.items()}
    adapter = run.checkpoint(checkpoint).load()
    scores |= {"LOSS": adapter.content["valid_loss"]} if adapter.content else {}
    record = _record(run, checkpoint, adapter, decoding, training.load(), stage, scores, len(instances), origin)
    if run.experiment.trains:
        write_card(record, run.checkpoint(checkpoint).path)

    def fill(folder: Path) -> None:
        (folder / SCORES).write_text(json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file(statistics, folder / STATISTICS)

    stage.write(fill, provenance=origin)
    return record


def _record(
    run: Run,
    checkpoint: Checkpoint,
    adapter: Manifest,
    decoding: Manifest,
    trained: Manifest,
    stage: Stage,
    scores: dict[str, float],
    contexts: int,
    origin: dict[str, Any],
) -> Record:
    experiment = run.experiment
    return Record(
        run=run.name,
        model=experiment.model.name,
        dataset=experiment.dataset.name,
        adapter=experiment.method.adapter.name,
        approx=experiment.method.approx.name,
        seed=experiment.seed,
        checkpoint=checkpoint.name,
        epoch=float(checkpoint.epoch),
        split=experiment.decode.split,
        scorer=experiment.dataset.scorer,
        contexts=contexts,
        scores=scores,
        cost=Cost(**trained.content["cost"]),
        settings=experiment.to_dict(),
        training=trained.content["training"],
        hashes={
            **{"train": run.train_key, "decode": run.decode_key, "data": run.data_key, "metrics": stage.key},
            "base": digest(base_files.content(experiment.model)),
            **{"adapter": digest(adapter.files), "predictions": digest(decoding.files)},
        },
        provenance={"training": trained.provenance, "decoding": decoding.provenance, "scoring": origin},
    )
