"""Records of scored runs, as `eval.results.collect` would find them, for the tests of what reads them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eval.results import Record
from eval.tables.runs import experiment_of
from loda.costs import Cost
from loda.lab.run import Run

TOY = ["model=toy", "dataset=toy", "optim=toy", "trainer=toy"]
SCORES = {"BLEU": 0.5, "NIST": 4.0, "METEOR": 0.3, "ROUGE_L": 0.6, "CIDEr": 1.5}
COST = Cost(
    trainable_parameters=8448,
    macs_per_token=205056,
    merged_macs_per_token=None,
    base_macs_per_token=196608,
    model_macs_per_token=958720,
    base_model_macs_per_token=950272,
    energy=1.0,
)


def record(
    overrides: list[str],
    scores: Mapping[str, float] | None = None,
    epoch: float = 5,
    cost: Mapping[str, int] | None = None,
    hashes: Mapping[str, str] | None = None,
    **changes: Any,
) -> Record:
    """The record of a run whose overrides end with the seed; `scores` are added to those of E2E."""
    *settings, seed = overrides
    experiment = replace(experiment_of(tuple(settings)), seed=int(seed.removeprefix("seed=")))
    run = Run(experiment)
    fields = {
        "run": run.name,
        "model": experiment.model.name,
        "dataset": experiment.dataset.name,
        "adapter": experiment.method.adapter.name,
        "approx": experiment.method.approx.name,
        "seed": experiment.seed,
        "checkpoint": f"epoch-{epoch:g}",
        "epoch": float(epoch),
        "split": experiment.decode.split,
        "scorer": experiment.dataset.scorer,
        "contexts": 60,
        "scores": SCORES | dict(scores or {}),
        "cost": replace(COST, **(cost or {})),
        "settings": experiment.to_dict(),
        "training": None,
        "hashes": {"train": "train", "decode": run.decode_key, "data": "data", "metrics": "metrics", **(hashes or {})},
        "provenance": {},
    }
    return Record(**fields | changes)
