"""Score files as the score stage writes them, for the tests of what reads them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.tables.fill import experiment_of
from loda.lab.fingerprint import decode_key, train_key
from loda.lab.run import Outputs

TOY = ["model=toy", "dataset=toy"]
SCORES = {"BLEU": 0.5, "NIST": 4.0, "METEOR": 0.3, "ROUGE_L": 0.6, "CIDEr": 1.5}


def write_scores(
    root: Path,
    overrides: list[str],
    scores: dict[str, float],
    epoch: int = 5,
    hashes: dict[str, str] | None = None,
    cost: dict[str, int] | None = None,
    without: str = "",
    **changes: Any,
) -> Path:
    """Write the scores.json of a run, less the metric `without`, where `train.py` would put it.

    `overrides` end with the seed.
    """
    *settings, seed = overrides
    experiment = replace(experiment_of(tuple(settings)), seed=int(seed.removeprefix("seed=")))
    run = Outputs(root).run(experiment)
    content = {
        "run": run.name,
        "model": experiment.model.name,
        "dataset": experiment.dataset.name,
        "adapter": "loda",
        "approx": "dense",
        "seed": experiment.seed,
        "epoch": epoch,
        "split": experiment.decode.split,
        "protocol": experiment.dataset.protocol,
        "contexts": 60,
        "scores": {name: score for name, score in (SCORES | scores).items() if name != without},
        "cost": {
            "trainable_parameters": 8448,
            "macs_per_token": 205056,
            "merged_macs_per_token": None,
            "base_macs_per_token": 196608,
            "model_macs_per_token": 958720,
            "base_model_macs_per_token": 950272,
            "energy": 1.0,
            **(cost or {}),
        },
        "settings": {},
        "training": None,
        "hashes": {
            "train": train_key(experiment),
            "decode": decode_key(experiment),
            "data": "data",
            "metrics": "metrics",
            **(hashes or {}),
        },
        "provenance": {"seconds": 1.5},
        **changes,
    }
    path = run.scores(experiment, f"epoch-{epoch}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
