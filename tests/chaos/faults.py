"""Let the nth operation on a file fail, for every n of a toy run, and compare after a repeat.

    python -m tests.chaos.faults
    python -m tests.chaos.faults --every 10          every tenth operation, as the test suite does

Operations are what the run does below its outputs folder: every open, write, fsync, rename, mkdir and the like. A
failing operation raises EIO; a failing write goes to a full disk. The run must end in one sentence (a LodaError) or not
care; repeated without a fault it must give the results of an undisturbed run, byte for byte, in a tree that verifies.
"""

import argparse
import builtins
import errno
import io
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError

from loda.errors import LodaError
from loda.lab.config import compose
from tests.chaos.__main__ import damaged, results
from tests.conftest import run_experiment

SETTINGS = ["model=toy", "dataset=toy", "optim=toy", "trainer=toy", "adapter=lora", "approx=rank38", "seed=0",
            "trainer.device=cpu", "trainer.max_steps=2", "trainer.state_interval_minutes=0", "trainer.valid_examples=4",
            "decode.num_beams=1", "decode.max_new_tokens=2", "dataset.metrics=[bleu]"]  # fmt: skip
AUDITED = ("open", "os.rename", "os.mkdir", "os.scandir", "os.listdir", "os.chmod", "os.remove", "shutil.rmtree")
FULL = "/dev/full"


class Fault:
    """The nth operation below `root` fails; `count` and `kind` say how many there were and of which kind it was."""

    def __init__(self, root: Path, number: int | None) -> None:
        self.root, self.number = str(root), number
        self.count, self.kind = 0, ""

    def hits(self, kind: str, *paths: Any) -> bool:
        """Count an operation, and say whether it is the one that fails."""
        if not any(self.root in os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)):
            return False
        self.count += 1
        if self.count != self.number:
            return False
        self.kind = kind
        return True


_fault: Fault | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _fault is not None and event in AUDITED and _fault.hits(event.rpartition(".")[2], *arguments[:2]):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(arguments[0]))


@contextmanager
def injected(fault: Fault) -> Iterator[None]:
    """Let the operation of `fault` fail. What Python audits is heard by a hook, the rest is replaced."""
    global _fault
    fsync, opened = os.fsync, io.open

    def failing_fsync(descriptor: int) -> None:
        if fault.hits("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    def full_open(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        is_full = set(mode) & set("wax+") and fault.hits("write", file)
        return opened(FULL if is_full else file, mode, *arguments, **options)

    def full_save(save: Callable[..., None]) -> Callable[..., None]:
        def save_file(tensors: Any, filename: Any, *arguments: Any, **options: Any) -> None:
            save(tensors, filename, *arguments, **options)
            if fault.hits("write", filename):
                os.truncate(filename, Path(filename).stat().st_size // 2)
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        return save_file

    with (
        patch.object(os, "fsync", failing_fsync),
        patch.object(io, "open", full_open),
        patch.object(builtins, "open", full_open),
        patch.object(safetensors.torch, "serialize_file", full_save(safetensors.torch.serialize_file)),
        patch.object(safetensors.numpy, "serialize_file", full_save(safetensors.numpy.serialize_file)),
    ):
        _fault = fault
        try:
            yield
        finally:
            _fault = None


def faults(every: int, folder: Path) -> Iterator[tuple[Fault, str]]:
    """Every fault that was injected, with what went wrong after it; '' if nothing did."""
    for name in ("first", "peace"):  # the first run fills the caches of the process, so it reads more
        peace = Fault(folder / name, None)
        with injected(peace):
            run_experiment(compose([*SETTINGS, f"outputs={folder / name}"]))
    expected = results(folder / "peace")
    for number in range(1, peace.count + 1, every):
        outputs = folder / str(number)
        fault = Fault(outputs, number)
        yield fault, _wrong(fault, outputs, expected)


def _wrong(fault: Fault, outputs: Path, expected: dict[str, str]) -> str:
    experiment = compose([*SETTINGS, f"outputs={outputs}"])
    try:
        with injected(fault):
            run_experiment(experiment)
    except LodaError:
        pass
    except Exception:
        return f"no sentence: {traceback.format_exc()}"
    try:
        run_experiment(experiment)
    except Exception:
        return f"the repeat failed: {traceback.format_exc()}"
    found = results(outputs)
    different = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    return "; ".join([*(f"{name} differs" for name in different), *damaged(outputs)])


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sys.addaudithook(_audit)
    started, kinds, bad = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        for fault, wrong in faults(options.every, Path(folder)):
            kinds[fault.kind] += 1
            if wrong:
                bad += 1
                print(f"operation {fault.number}, {fault.kind}: {wrong}", flush=True)
    each = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"{kinds.total()} faults ({each}), {time.monotonic() - started:.0f} s")
    print(f"differences, tracebacks and damaged stages: {bad}")
    return 1 if bad or "" in kinds else 0


if __name__ == "__main__":
    sys.exit(main())
