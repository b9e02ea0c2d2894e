"""Every block of README.md runs as pasted, or names commands and settings that exist."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from loda.lab.config import compose
from scripts.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
OWN_DATA = next(text for _, text in BLOCKS if "my_data" in text)
COMMANDS = re.findall(r"(?:python(?: -m scripts)?|make) [^`|\n]+", "".join(text for _, text in BLOCKS)) + re.findall(
    r"`((?:python|make) [^`]+)`", README
)


@pytest.fixture
def clone(tmp_path):
    """A folder that looks like the root of a clone; what is written stays in it."""
    for name in ("loda", "eval", "scripts", "configs", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("text", PYTHON, ids=["library", "peft"])
def test_a_python_block_runs(text, clone):
    assert "trainable" in run([sys.executable, "-c", text], clone)


def test_the_block_on_your_own_data_trains_decodes_and_scores(clone):
    assert "BLEU" in run(["bash", "-e", "-c", OWN_DATA], clone)


@pytest.mark.parametrize("command", dict.fromkeys(command.partition("#")[0].strip() for command in COMMANDS))
def test_a_command_exists_with_its_options_and_settings(command, capsys):
    program, *arguments = shlex.split(command)
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    settings = [word for word in arguments if re.match(r"[\w./]+=", word)]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(arguments) - set(settings) <= set(targets)
    elif arguments[0] == "train.py":
        compose([word.partition(",")[0] for word in settings if not word.startswith(("dataset.path", "hydra/"))])
        chosen = [word.split("=") for word in settings if word.startswith("hydra/")]
        assert all((ROOT / "configs" / group / f"{name}.yaml").exists() for group, name in chosen)
    else:
        module = VERBS[arguments[2]] if arguments[1] == "scripts" else arguments[1]
        with suppress(SystemExit):  # torchrun returns
            import_module(module).main(["--help"])
        assert options <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))
