"""The examples run as they are, on the embedded toy base, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# One thread, as in tests/conftest.py: the toy base is too small to share between cores.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_trains_an_adapter_that_loads_to_the_same_logits(script, tmp_path):
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "same logits: True" in done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_toy_base_and_shows_its_figures(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("BASE", "toy")  # the other is a download, and takes minutes
    notebook = nbformat.read(path, as_version=4)
    stored = [kinds(cell) for cell in notebook.cells]
    resources = {"metadata": {"path": str(EXAMPLES)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert [kinds(cell) for cell in notebook.cells] == stored
    assert sum("image/png" in found for found in stored) == 2


def kinds(cell: nbformat.NotebookNode) -> set[str]:
    """What a cell shows: text, or media types of results; warnings and progress do not count."""
    found = set()
    for output in cell.get("outputs", []):
        found |= {output.name} - {"stderr"} if output.output_type == "stream" else set(output.data)
    return found
