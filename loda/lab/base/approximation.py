"""The approximated projections of a base: a stage that all runs with the same approximation share."""

from functools import lru_cache

from safetensors.torch import load_file, save_file
from torch import Tensor

import loda
from loda.lab.base.model import Base
from loda.lab.run import Run
from loda.lab.stage import Stage

FILE = "approximation.safetensors"


def get_approximation(run: Run, base: Base) -> dict[str, Tensor] | None:
    """The state dict of the approximated projections, computed once; None for dense ones."""
    stage = run.approximation()
    if stage is None:
        return None
    if stage.find() is None:
        tensors = loda.approximate(base.model, run.experiment.method)
        stage.write(lambda folder: save_file(tensors, folder / FILE))
    return _read(stage)


@lru_cache(maxsize=1)
def _read(stage: Stage) -> dict[str, Tensor]:
    stage.load()
    tensors: dict[str, Tensor] = load_file(stage.path / FILE)
    return tensors
