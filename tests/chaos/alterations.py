"""Alter every file and exchange every stage of a toy outputs folder, and ask every reader what it makes of it.

    python -m tests.chaos.alterations
    python -m tests.chaos.alterations --every 10          every tenth case, as the test suite does

Two runs that differ in their seed are taken at four moments: finished, decoded, in the middle of a decoding and of a
training. Each file of the first is altered in ten ways, each of its stages is replaced by that of the second. Readers
may refuse in one sentence, leave the artefact out and say so, make it again, or not depend on it. Counted as faults are
tracebacks, numbers that differ without a word, and altered stages that `verify` calls sound.
"""

import argparse
import contextlib
import functools
import io
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM

import eval.decode.stage
import loda
from eval.report import write as write_report
from eval.score import stage as scoring
from eval.tables.fill import build
from loda.errors import LodaError
from loda.lab.base import approximation
from loda.lab.base.files import SHIPPED
from loda.lab.config import compose
from loda.lab.run import Run
from loda.lab.stage import MANIFEST, all_places, read_stage
from loda.lab.training import loop
from scripts import status, verify
from tests.conftest import run_experiment

COMMON = ["trainer.device=cpu", "trainer.max_steps=4", "trainer.state_interval_minutes=0", "trainer.valid_examples=4",
          "trainer.log_every=2", "decode.num_beams=1", "decode.max_new_tokens=3", "decode.batch_size=16",
          "dataset.metrics=[bleu]"]  # fmt: skip
ROW = [
    "model=toy",
    "dataset=toy",
    "optim=toy",
    "trainer=toy",
    "optim.epochs=6",
    "optim.checkpoint_epochs=[3]",
    "adapter=loda",
    "approx=rank38",
]  # a row of the table
FOR_PEOPLE = ("lock", "metrics.jsonl", "README.md", "failed.json", "results.jsonl")
"""No score depends on them, so `verify` does not look at them."""


class Stopped(Exception):
    pass


def stop(*arguments: Any, **options: Any) -> None:
    raise Stopped


def second(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which works once and then stops."""
    calls = iter([function])
    return lambda *arguments, **options: next(calls, stop)(*arguments, **options)


WORLDS: dict[str, Callable[[], Any]] = {
    "finished": contextlib.nullcontext,
    "decoded": lambda: patch.object(scoring, "make_corpus", stop),
    "decoding": lambda: patch.object(eval.decode.stage, "search", second(eval.decode.stage.search)),
    "training": lambda: patch.object(loop.Loop, "_end", stop),  # the last state is saved by then
}


def experiment(outputs: Path, seed: int) -> Any:
    return compose([*ROW, *COMMON, f"seed={seed}", f"outputs={outputs}"])


def build_world(name: str, outputs: Path) -> None:
    for seed in (0, 1):
        with WORLDS[name](), contextlib.suppress(Stopped):
            run_experiment(experiment(outputs, seed))
        Run(experiment(outputs, seed)).failed_file.write_text('{"overrides": "", "message": "no"}')


@dataclass(frozen=True)
class Case:
    """One alteration: of which artefact, how, and whether `verify` must notice it."""

    artefact: str
    how: str
    alter: Callable[[Path], object]  # of an outputs folder
    covered: bool


def cases(outputs: Path) -> Iterator[Case]:
    """All alterations of one world."""
    mine, theirs = (Run(experiment(outputs, seed)) for seed in (0, 1))
    used = {place for stage in all_places(outputs) for place in read_stage(outputs, stage).inputs}
    for path in sorted(path for path in outputs.rglob("*") if path.is_file()):
        name = path.relative_to(outputs).as_posix()
        if name.startswith(theirs.place):
            continue
        other = outputs / name.replace(mine.name, theirs.name)
        yield from _of_file(outputs, name, other.read_bytes() if other != path and other.is_file() else None, used)
    for place in all_places(outputs):
        if place.startswith(mine.place):
            other = outputs / place.replace(mine.name, theirs.name)
            kind = read_stage(outputs, place).stage
            yield Case(kind, "stage of another run", functools.partial(_exchange, place, other), covered=True)
    yield Case("run", "folder of another run", functools.partial(_exchange, mine.place, theirs.path), covered=True)


def _of_file(outputs: Path, name: str, other: bytes | None, used: Container[str]) -> Iterator[Case]:
    path = outputs / name
    content = path.read_bytes()
    in_stage = path.name not in FOR_PEOPLE and (path.parent / MANIFEST).is_file()
    place = path.parent.relative_to(outputs).as_posix()
    kind = read_stage(outputs, place).stage if in_stage else "run"
    # Without its manifest a stage from which nothing is made is simply not there.
    absent_is_fine = path.name == MANIFEST and place not in used
    middle = len(content) // 2
    ways: dict[str, bytes | None] = {
        "deleted": None,
        "empty": b"",
        "cut in half": content[:middle],
        "first bit": _flipped(content, 0),
        "a bit in the middle": _flipped(content, middle),
        "a byte more": content + b"\0",
        "[]": b"[]",
        "nested 100,000 deep": b"[" * 100_000,
        "not UTF-8": b"\xff\xfe" + content,
    }
    if other is not None:
        ways["that of another run"] = other
    for how, new in ways.items():
        if new != content:
            covered = in_stage and not (new is None and absent_is_fine)
            yield Case(f"{kind}: {path.name}", how, functools.partial(_write, name, new), covered)
    covered = in_stage and not absent_is_fine
    yield Case(f"{kind}: {path.name}", "a folder", functools.partial(_make_folder, name), covered)


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes(byte ^ 1 for byte in content[place : place + 1]) + content[place + 1 :]


def _write(name: str, content: bytes | None, outputs: Path) -> None:
    (outputs / name).unlink()
    if content is not None:
        (outputs / name).write_bytes(content)


def _make_folder(name: str, outputs: Path) -> None:
    (outputs / name).unlink()
    (outputs / name).mkdir()


def _exchange(place: str, other: Path, outputs: Path) -> None:
    shutil.rmtree(outputs / place)
    shutil.copytree(other, outputs / place)


def read_table(outputs: Path) -> dict[str, Any]:
    """What the table shows, by row and score: the number of seeds and their mean."""
    table = build("table1", "toy", outputs, COMMON)
    return {f"{row.spec.label} {row.spec.approx} {name}": (cell.ours.n, cell.ours.mean)
            for row in table.rows for name, cell in row.cells.items() if cell.ours}  # fmt: skip


def repeat(outputs: Path) -> dict[str, Any]:
    """What the same command gives: scores, and the hashes of adapter and predictions among others."""
    return {record.checkpoint: (record.scores, record.hashes) for record in run_experiment(experiment(outputs, 0))}


def load(outputs: Path) -> dict[str, Any]:
    """The adapter that `loda.from_pretrained` loads."""
    (folder,) = (Run(experiment(outputs, 0)).path / "checkpoints").glob("[!.]*")
    adapted = loda.from_pretrained(AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32), folder)
    return {name: tensor.sum().item() for name, tensor in loda.trainable_parameters(adapted).items()}


READERS: dict[str, Callable[[Path], Any]] = {
    "verify": lambda outputs: {"code": verify.main([str(outputs)])},
    "status": lambda outputs: {"code": status.main(["--outputs", str(outputs)])},
    "table": read_table,
    "report": lambda outputs: write_report(["table1"], "toy", outputs, COMMON) and {},
    "from_pretrained": load,
    "repeat": repeat,  # the last, because it makes again what is missing
}


def verdict(reader: str, case: Case, outputs: Path, expected: dict[str, Any]) -> str:
    """What a reader makes of an altered folder."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = READERS[reader](outputs)
    except LodaError as error:
        return f"HIDES THE OTHERS: {error}" if reader in ("status", "table", "report") else "refused"
    except Exception:
        return f"TRACEBACK {traceback.format_exc()}"
    if reader == "verify":
        return "named" if found["code"] == 1 else "TAKEN FOR SOUND" if case.covered else "not covered"
    if found == expected:
        return "as before"
    # A table without one of two seeds has other means, and says so.
    is_said = case.how == "deleted" or "left out" in said.getvalue()
    changed = {name for name, value in expected.items() if found.get(name) != value}
    fewer = reader == "table" and all(name not in found or found[name][0] < expected[name][0] for name in changed)
    return "left out" if is_said and fewer else f"SILENT: {found} instead of {expected}"


def survey(world: str, folder: Path, every: int, start: int) -> Iterator[tuple[Case, str, str]]:
    """The verdict of every reader about every case of a world."""
    whole = folder / world
    build_world(world, whole)
    expected = {}
    for reader, read in READERS.items():
        copy = Path(shutil.copytree(whole, folder / "copy", dirs_exist_ok=False))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            expected[reader] = {} if reader == "from_pretrained" and world == "training" else read(copy)
        shutil.rmtree(copy)
    for case in list(cases(whole))[start::every]:
        copy = Path(shutil.copytree(whole, folder / "copy"))
        case.alter(copy)
        for reader in READERS:
            # An adapter's folder is whole by itself: another run's is a good adapter.
            if reader == "from_pretrained" and (not expected[reader] or case.how.endswith("of another run")):
                continue
            approximation._tensors.cache_clear()
            yield case, reader, verdict(reader, case, copy, expected[reader])
        shutil.rmtree(copy)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.alterations", description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started, faults, number = time.monotonic(), 0, 0
    counts: dict[str, Counter[str]] = {reader: Counter() for reader in READERS}
    with tempfile.TemporaryDirectory() as folder:
        for position, world in enumerate(WORLDS):
            for case, reader, found in survey(world, Path(folder), options.every, position % options.every):
                kind = found.split()[0].rstrip(":,") if found[:2].isupper() else found
                counts[reader][kind] += 1
                number += reader == "verify"
                if found[:2].isupper():
                    faults += 1
                    print(f"{world}, {case.artefact}, {case.how}; {reader}: {found}", flush=True)
    print(f"{number} alterations, {time.monotonic() - started:.0f} s")
    for reader, found_by in counts.items():
        print(f"{reader:16} " + ", ".join(f"{count} {kind}" for kind, count in found_by.most_common()))
    print(f"faults: {faults}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
