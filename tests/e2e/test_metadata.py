"""The files about the project that other programs read: valid by the schemas of those programs, and of one version."""

import re

import pytest

import loda
from tests.conftest import REPOSITORY, python


@pytest.mark.parametrize(
    ("schema", "file"),
    [("citation-file-format", "CITATION.cff"), ("github-workflows", ".github/workflows/test.yml")],
)
def test_a_file_is_valid_by_its_schema(schema, file):
    done = python("-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", file)
    assert done.returncode == 0, done.stdout


def test_every_file_says_the_same_version():
    for name, pattern in (("CITATION.cff", r"^version: (.*)$"), ("CHANGELOG.md", r"^## \[([\d.]+)\]")):
        found = re.findall(pattern, (REPOSITORY / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert found[0] == loda.__version__, name


def test_the_lock_file_has_the_versions_of_the_constraints_and_leaves_the_build_of_torch_open():
    def pins(name):
        return set(re.findall(r"^\S+==\S+", (REPOSITORY / name).read_text(encoding="utf-8").lower(), re.MULTILINE))

    normal = {re.sub(r"[-_.]+(?=.*==)", "-", pin) for pin in pins("constraints.txt")}
    locked = {re.sub(r"[-_.]+(?=.*==)", "-", pin) for pin in pins("requirements.lock")}
    assert {pin.partition("==")[0] for pin in normal ^ locked} == {"torch"}
