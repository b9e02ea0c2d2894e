"""The approximated projections of a base: a stage that all runs with the same approximation share."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

import loda
from loda.adapter_files import APPROXIMATION_FILE, load_tensors, save_tensors
from loda.lab.base.model import Base
from loda.lab.base.tokenizer import load_tokenizer
from loda.lab.progress import progress_bar
from loda.lab.run import Run
from loda.lab.stage import Stage
from loda.lab.training.examples import training_examples


def get_approximation(run: Run, base: Base) -> dict[str, Tensor] | None:
    """The state dict of the approximated projections, computed once; None for dense ones."""
    stage = run.approximation()
    if stage is None:
        return None
    if stage.find() is None:
        method = run.experiment.method
        moments = loda.second_moments(base.model, method, _batches(run, base)) if run.calibration else None
        tensors = loda.approximate(base.model, method, moments)
        stage.write(lambda folder: save_tensors(tensors, folder / APPROXIMATION_FILE))
    return _read(stage)


def _batches(run: Run, base: Base) -> Iterator[Tensor]:
    """The ids of `run.calibration` training examples, spread evenly over the split."""
    examples = training_examples(run, load_tokenizer(base.folder))
    number = min(run.calibration, len(examples))
    with progress_bar("calibrate", number, "example") as bar:
        for i in range(number):
            yield torch.tensor([examples[i * len(examples) // number].ids])
            bar.update()


@lru_cache(maxsize=1)
def _read(stage: Stage) -> dict[str, Tensor]:
    stage.load()
    return load_tensors(stage.path / APPROXIMATION_FILE)
