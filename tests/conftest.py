"""What all tests share: where the reference data lies, and one thread for torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eval.pipeline import complete
from eval.results import Record
from loda.lab.config import Experiment
from loda.lab.run import Run

# The tests' matrices are tiny: a second thread costs more than it gives (x20 in an SVD on two busy cores).
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LODA_SHARED", REPOSITORY.parent / "shared"))


def python(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository with these arguments, on one thread."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_experiment(experiment: Experiment) -> list[Record]:
    """Do what is missing of an experiment, and return its scores."""
    return complete(Run(experiment))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that is not part of the repository."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip(f"reference data not found at {SHARED} (set LODA_SHARED to its folder)")
    return SHARED
