"""What all tests share: where the reference data lies."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LODA_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data not found at {SHARED} (set LODA_SHARED to its folder)")
    return SHARED
