"""A few kills at random moments; `make chaos` does more."""

import re

from tests.conftest import python


def test_nothing_is_lost_by_kills_at_random_moments():
    result = python("-m", "tests.chaos", "--kills", "5", "--seed", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^5 kills ", result.stdout, re.MULTILINE)
    assert "differences: 0\n" in result.stdout
