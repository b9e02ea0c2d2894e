"""The approximated projections of a base and the plan of their ranks: stages that runs with the same settings share."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

import loda
from loda.adapter_files import APPROXIMATION_FILE, load_tensors, save_tensors
from loda.config import LodaConfig
from loda.errors import LodaError
from loda.lab.base.model import Base
from loda.lab.base.tokenizer import load_tokenizer
from loda.lab.processes import is_main_process
from loda.lab.progress import progress_bar
from loda.lab.run import Run
from loda.lab.stage import Stage
from loda.lab.training.examples import Example, collate, training_examples
from loda.lab.training.validation import BATCH, validation_loss, weighted_losses
from loda.manifest import check_files
from loda.settings import read_json

PLAN_FILE = "plan.json"
PROBES = 64
"""Training examples, others than those of the calibration, whose loss a plan is made by."""


def get_approximation(run: Run, base: Base) -> tuple[LodaConfig, dict[str, Tensor] | None]:
    """The method with the ranks of its plan, and the state dict of the approximated projections; None for dense ones.

    Both are computed once.
    """
    method, plan = run.experiment.method, run.plan()
    tensors: dict[str, Tensor] | None = None
    if run.approximation() is None:
        return method, None
    if plan is not None and plan.find() is None:
        seen, probes = _examples(run, base)
        moments = loda.second_moments(base.model, method, token_batches(seen, "calibrate"))
        tensors = _write_plan(plan, base, method, moments, seen, probes)
    if plan is not None:
        method = _planned(method, plan)
    stage = run.approximation()  # again, because it is made from the plan
    assert stage is not None
    if stage.find() is None:
        found = _approximate(run, base, method) if tensors is None else tensors
        stage.write(lambda folder: save_tensors(found, folder / APPROXIMATION_FILE))
    return method, _read(stage)


def _approximate(run: Run, base: Base, method: LodaConfig) -> dict[str, Tensor]:
    if not run.calibration:
        return loda.approximate(base.model, method)
    seen, _ = _examples(run, base)
    return loda.approximate(
        base.model, method, loda.second_moments(base.model, method, token_batches(seen, "calibrate"))
    )


def _write_plan(
    stage: Stage,
    base: Base,
    method: LodaConfig,
    moments: dict[str, Tensor],
    seen: list[Example],
    probes: list[Example],
) -> dict[str, Tensor]:
    """Write the plan and return the approximation."""

    def losses(model: PreTrainedModel) -> Iterator[Tensor]:
        tokens = sum(example.num_targets for example in seen)
        return (loss * (weight / tokens) for loss, weight in weighted_losses(model, seen, collate))

    with tqdm(desc="plan", unit=" probe", disable=not is_main_process()) as bar:
        found = loda.plan(
            base.model,
            method,
            moments,
            losses,
            lambda model: validation_loss(model, probes, collate),
            lambda: bar.update(),
        )
    content = {"share": found.share, "losses": found.losses, "modules": [asdict(module) for module in found.modules]}
    stage.write(lambda folder: (folder / PLAN_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))
    return found.approximation


def _planned(method: LodaConfig, stage: Stage) -> LodaConfig:
    """`method` with the ranks of its plan."""
    stage.load()
    modules = read_json(stage.path / PLAN_FILE)["modules"]
    ranks = {name: module["rank"] for module in modules for name in module["modules"]}
    return replace(method, approx=replace(method.approx, rank_pattern=ranks))


def _examples(run: Run, base: Base) -> tuple[list[Example], list[Example]]:
    """`run.calibration` training examples, spread evenly over the split, and others to probe the loss of a plan with.

    A small data set has fewer: up to a half of it is left for the probes.
    """
    examples = training_examples(run, load_tokenizer(base.folder))
    if run.plan() is not None and len(examples) < 2:
        raise LodaError("approx=auto needs two training examples, one to probe the loss with; add some")
    number = min(run.calibration, len(examples) - (0 if run.plan() is None else min(PROBES, len(examples) // 2)))
    chosen = {i * len(examples) // number for i in range(number)}
    others = [example for i, example in enumerate(examples) if i not in chosen and example.num_targets]
    probes = min(PROBES, len(others))
    return [examples[i] for i in sorted(chosen)], [others[i * len(others) // probes] for i in range(probes)]


def token_batches(examples: list[Example], stage: str) -> Iterator[Tensor]:
    """The ids of all examples, those of one length together, with a progress bar called `stage`."""
    lengths = defaultdict(list)
    for example in examples:
        lengths[len(example.ids)].append(example.ids)
    with progress_bar(stage, len(examples), "example") as bar:
        for _, found in sorted(lengths.items()):
            for start in range(0, len(found), BATCH):
                part = found[start : start + BATCH]
                yield torch.tensor(part)
                bar.update(len(part))


def _read(stage: Stage) -> dict[str, Tensor]:
    found = stage.find()
    assert found is not None
    return _tensors(stage.path, found.files[APPROXIMATION_FILE])


@lru_cache(maxsize=1)
def _tensors(folder: Path, sha256: str) -> dict[str, Tensor]:
    check_files(folder, {APPROXIMATION_FILE: sha256})
    return load_tensors(folder / APPROXIMATION_FILE)
