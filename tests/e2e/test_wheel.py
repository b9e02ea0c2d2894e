"""The wheel is the library: without the harness, the toy model and its generator."""

import shutil
import subprocess
import sys
import zipfile

from tests.conftest import REPOSITORY


def test_the_wheel_holds_the_library_and_nothing_else(tmp_path):
    source = tmp_path / "source"  # a copy, because setuptools packs what an earlier build left behind
    shutil.copytree(REPOSITORY / "loda", source / "loda")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-w", tmp_path]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert "loda/adapters/bottleneck.py" in files
    assert all(name.startswith("loda/") and name.endswith(".py") for name in files)
    assert not [name for name in files if name.startswith("loda/lab/")]
