"""The library stands alone: it imports nothing of the harness, and the harness is layered."""

import ast
import pkgutil
from pathlib import Path

import pytest

import loda
from tests.conftest import REPOSITORY as ROOT
from tests.conftest import python

HEAVY = ("hydra", "omegaconf", "datasets", "wandb", "nltk", "pycocoevalcap", "sacrebleu", "matplotlib", "peft")

# A module may import what ranks as high as itself or lower.
RANKS = {"loda": 0, "loda.lab": 1, "eval": 2, "train": 3, "scripts": 3, "benchmarks": 3}


def rank(module: str) -> int | None:
    """The rank of a module of this repository; None for a module of others."""
    return max((RANKS[name] for name in RANKS if f"{module}.".startswith(f"{name}.")), default=None)


def sources() -> list[Path]:
    folders = [path for name in ("loda", "eval", "scripts", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    return sorted([*folders, *ROOT.glob("train.py")])


def imports(path: Path) -> list[str]:
    """The names that a file imports, as module.name for `from module import name`."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
            assert not any(f"{name}.".startswith("eval.") for name in names), f"{path}: hides the builtin eval"
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


every_source = pytest.mark.parametrize("path", sources(), ids=module_name)


@every_source
def test_a_module_imports_public_names_of_what_stands_before_it(path):
    own = rank(module_name(path))
    for name in imports(path):
        if rank(name) is not None:
            assert rank(name) <= own, f"{module_name(path)} imports {name}"
            assert not name.rpartition(".")[2].startswith("_"), f"{module_name(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in sources() if rank(module_name(p)) == 0], ids=module_name)
def test_the_library_reads_no_environment_no_clock_and_does_not_speak(path):
    used = {name.split(".")[0] for name in imports(path)}
    if module_name(path) == "loda.atomic":
        used.discard("os")  # flushes to the disk, which pathlib cannot
    assert not used & {"os", "time", "datetime", "logging", "warnings", "yaml", "argparse", "sys"}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls)


def test_importing_the_library_imports_nothing_of_the_harness():
    result = python("-c", "import sys, loda; loda.inject; print(*sys.modules)")
    assert result.returncode == 0
    assert not {name for name in result.stdout.split() if name.split(".")[0] in HEAVY or name == "loda.lab"}


def test_what_a_command_checks_first_needs_none_of_the_slow_imports():
    result = python("-c", "import sys, train, eval.table; print(*sys.modules)")
    assert result.returncode == 0
    assert not {"transformers.modeling_utils", "torch._dynamo", "datasets", "nltk"} & set(result.stdout.split())


def test_the_public_names_exist_are_documented_and_listed():
    assert set(dir(loda)) == {*loda.__all__, "__version__"}
    for name in loda.__all__:
        assert getattr(loda, name).__doc__, name
    with pytest.raises(AttributeError, match="module 'loda' has no attribute 'injekt'"):
        _ = loda.injekt


def test_no_module_of_the_library_hides_a_public_name():
    # Importing loda/x.py sets loda.x to the module, in the place of a function x.
    assert not {module.name for module in pkgutil.iter_modules(loda.__path__)} & set(loda.__all__)


def test_the_modules_of_the_library_import_each_other_in_no_circle():
    library = {module_name(path): path for path in sources() if rank(module_name(path)) == 0}
    waiting = {
        name: {n for n in library if any(f"{i}.".startswith(f"{n}.") for i in imports(library[name]))}
        for name in library
    }
    while waiting:
        ready = [name for name, others in waiting.items() if not (others - {name}) & set(waiting)]
        assert ready, f"a circle: {sorted(waiting)}"
        waiting = {name: others for name, others in waiting.items() if name not in ready}
