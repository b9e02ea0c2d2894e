"""`python -m scripts new KIND NAME`: what it writes passes the tests of its kind as it is."""

import os
import shutil
import subprocess
import sys

import pytest

from loda.errors import LodaError
from scripts import new
from tests.conftest import REPOSITORY

TESTS = [
    *("tests/library/test_adapters.py", "tests/library/test_approx.py", "tests/library/test_config.py"),
    *("tests/eval/test_score.py", "tests/eval/test_decode.py", "tests/lab/test_fuzz.py", "tests/lab/test_config.py"),
]
# One test for each kind, to see that the part was found.
FOUND = [
    "test_generating_with_a_cache_gives_what_generating_without_one_gives[my_part] PASSED",
    "test_the_map_is_affine_with_and_without_bias[my_part] PASSED",
    "test_every_metric_keeps_the_contract[my_part] PASSED",
    "test_a_reader_gives_texts_or_a_sentence[my_part] PASSED",
    "test_every_method_composes[my_part-my_part] PASSED",
    "test_every_group_file_composes[dataset=my_part] PASSED",
]


def test_each_new_part_passes_the_tests_of_its_kind(tmp_path):
    copy = tmp_path / "copy"
    for folder in ("configs", "eval", "loda", "scripts", "tests"):
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    for kind in new.KINDS:
        for path, text in new.files(kind, "my_part", copy).items():
            path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-k", "my_part", *TESTS],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert all(line in done.stdout for line in FOUND), done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "rule"),
    [
        ("adapter", "loda_plus", "loda_plus is taken by configs/adapter/loda_plus.yaml; choose another name"),
        ("approximation", "low_rank", "low_rank is taken by loda/approx/low_rank.py"),
        ("metric", "bleu", "bleu is taken by eval/score/metrics/bleu.py"),
        ("data_set", "e2e", "e2e is taken by loda/lab/data/e2e.py"),
        ("adapter", "My-Adapter", "'My-Adapter' cannot name a file and a class; use lower-case letters"),
        ("adapter", "../lora", "'../lora' cannot name"),
        ("adapter", "lambda", "'lambda' cannot name"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(kind, name, rule):
    with pytest.raises(LodaError, match=rule):
        new.main([kind, name])
