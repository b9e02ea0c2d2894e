"""The approximated projections of a base: a stage that all runs with the same approximation share."""

from functools import lru_cache

from torch import Tensor

import loda
from loda.adapter_files import APPROXIMATION_FILE, load_tensors, save_tensors
from loda.lab.base.model import Base
from loda.lab.run import Run
from loda.lab.stage import Stage


def get_approximation(run: Run, base: Base) -> dict[str, Tensor] | None:
    """The state dict of the approximated projections, computed once; None for dense ones."""
    stage = run.approximation()
    if stage is None:
        return None
    if stage.find() is None:
        tensors = loda.approximate(base.model, run.experiment.method)
        stage.write(lambda folder: save_tensors(tensors, folder / APPROXIMATION_FILE))
    return _read(stage)


@lru_cache(maxsize=1)
def _read(stage: Stage) -> dict[str, Tensor]:
    stage.load()
    return load_tensors(stage.path / APPROXIMATION_FILE)
