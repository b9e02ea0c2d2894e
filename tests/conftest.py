"""What all tests share: where the reference data lies, and one thread for torch."""

import os
from pathlib import Path

import pytest
import torch

# The tests' matrices are tiny: a second thread costs more than it gives (x20 in an SVD on two busy cores).
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LODA_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that is not part of the repository."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip(f"reference data not found at {SHARED} (set LODA_SHARED to its folder)")
    return SHARED
