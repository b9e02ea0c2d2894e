"""A few kills at random moments; `make chaos` does more."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_nothing_is_lost_by_kills_at_random_moments():
    result = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--kills", "5", "--seed", "1"],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^5 kills ", result.stdout, re.MULTILINE)
    assert "differences: 0\n" in result.stdout
