"""The training stage: what is missing of a run's checkpoints, and the summary that says all are there."""

import time
from dataclasses import asdict
from functools import partial
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, set_seed

import loda
from loda.atomic import discard_folder
from loda.lab.base.approximation import get_approximation
from loda.lab.base.model import Base
from loda.lab.device import pick_device, set_threads
from loda.lab.processes import is_main_process
from loda.lab.provenance import provenance
from loda.lab.run import Run
from loda.lab.training.checkpoints import UNTRAINED, Checkpoint
from loda.lab.training.examples import Example, collate
from loda.lab.training.loop import Loop, Summary, prepared
from loda.lab.training.metrics_logger import MetricsLogger
from loda.lab.training.packing import obstacle, pack, uses_packing
from loda.lab.training.state import discard_state, load_state, save_state
from loda.lab.training.validation import validation_loss


def train(run: Run, base: Base, examples: list[Example], validation: list[Example]) -> None:
    """Train, unless it was done: afterwards every checkpoint, its loss on `validation`, and the summary exist.

    An interrupted training continues from its last state. Of several processes only the first writes.
    """
    experiment, started = run.experiment, time.monotonic()
    if is_main_process():
        run.settings().write(content=experiment.to_dict())
    set_threads(experiment.trainer)  # first: the digits of an approximation depend on it too
    method, approximation = get_approximation(run, base)
    stage = run.training()
    if stage is not None and stage.find() is not None:
        if is_main_process():
            discard_state(run)
        return
    _ = base.model  # loaded before the seed is set, or the start values would depend on who loads it
    set_seed(experiment.seed)
    with base.adapted(method, approximation) as model:
        content: dict[str, Any] = {"cost": asdict(loda.cost(model)), "training": None}
        if experiment.trains:
            content["training"] = asdict(_train(run, base, model, examples, validation))
        else:
            _keep(run, base, model, UNTRAINED, validation, packing=False)
    if is_main_process():
        stage = run.training()
        assert stage is not None
        device = pick_device(experiment.trainer.device)
        stage.write(content=content, provenance=provenance(time.monotonic() - started, device))
        discard_state(run)


def _train(run: Run, base: Base, model: PreTrainedModel, examples: list[Example], validation: list[Example]) -> Summary:
    experiment, state = run.experiment, load_state(run)
    if is_main_process() and state is None:
        discard_folder(run.path / "checkpoints")
    packing = uses_packing(experiment, base.shape)
    if is_main_process() and not packing and experiment.trainer.packing == "auto":
        tqdm.write(f"trainer.packing=auto: batches are padded, because {obstacle(experiment, base.shape)}")
    with prepared(model, experiment.trainer, packing):
        loop = Loop(model, examples, experiment.seed, experiment.optim, experiment.trainer, packing, state)
        with _logger(run, resume=state is not None) as logger:  # accelerate's trackers want the loop's accelerator
            return loop.run(
                logger,
                keep=lambda checkpoint: _keep(run, base, model, checkpoint, validation, packing),
                save=lambda now: save_state(run, now) if is_main_process() else None,
            )


def _logger(run: Run, resume: bool) -> MetricsLogger:
    if not is_main_process():
        return MetricsLogger()
    experiment = run.experiment
    return MetricsLogger.open(run.metrics_file, experiment.logger, run.name, experiment.to_dict(), resume)


def _keep(
    run: Run, base: Base, model: PreTrainedModel, checkpoint: Checkpoint, validation: list[Example], packing: bool
) -> None:
    """Save a checkpoint with its loss on `validation`, if that was not done and this is the first process."""
    stage = run.checkpoint(checkpoint)
    if is_main_process() and stage.find() is None:
        loss = validation_loss(model, validation, pack if packing else collate) if validation else None
        content = {} if loss is None else {"valid_loss": loss}
        saved = partial(
            loda.save_pretrained,
            model,
            with_approximation=run.calibration > 0,  # nobody else could compute it again
            base_fingerprint=base.fingerprint,
        )
        stage.write(saved, content)
