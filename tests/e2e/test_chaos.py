"""A few kills, failing operations and altered files; `make chaos` does all of them."""

import re

from tests.conftest import python


def test_nothing_is_lost_by_kills_at_random_moments():
    result = python("-m", "tests.chaos", "--kills", "5", "--seed", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^5 kills ", result.stdout, re.MULTILINE)
    assert "differences: 0\n" in result.stdout


def test_an_operation_on_a_file_that_fails_loses_nothing():
    result = python("-m", "tests.chaos.faults", "--every", "50")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^1\d faults ", result.stdout, re.MULTILINE)


def test_no_reader_takes_an_altered_file_for_sound():
    result = python("-m", "tests.chaos.alterations", "--every", "60")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^1\d alterations", result.stdout, re.MULTILINE)
