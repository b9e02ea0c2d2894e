"""Kill the toy pipeline at random moments, again and again, and compare the results with an undisturbed run.

    python -m tests.chaos --kills 50

One process imports everything and is forked for every attempt, so an attempt starts at once and a kill (SIGKILL, to
the attempt and whatever it started) falls into the work, not into imports. Each world is one outputs folder: attempts
are killed there after random times until one gets through, then a new world begins, until there were enough kills.
Every attempt does the whole path: prepare, approximate, train, decode, score, render.

Differences are files that are not byte for byte those of the undisturbed run: adapters, metrics, predictions,
statistics, tables, and the scores of scores.json (its times differ). Work done again are finished stages that a later
attempt wrote again.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from eval.tables.fill import build
from eval.tables.render import write
from loda.atomic import sha256
from loda.errors import LodaError
from loda.lab.config import compose
from loda.lab.stage import MANIFEST, all_places, read_stage, verify
from loda.settings import read_json
from tests.conftest import run_experiment

COMMON = ["trainer.device=cpu", "trainer.max_steps=24", "trainer.log_every=5", "trainer.state_interval_minutes=0",
          "optim.batch_size=2", "optim.gradient_accumulation_steps=2", "decode.num_beams=2", "decode.max_new_tokens=12",
          "decode.batch_size=8", "dataset.metrics=[bleu,nist,rouge_l,cider]"]  # fmt: skip
# A row of Table 1's toy profile, so that the rendered table holds its scores.
SETTINGS = ["model=toy", "dataset=toy", "optim=toy", "optim.epochs=6", "optim.checkpoint_epochs=[3]", "trainer=toy",
            *COMMON, "adapter=loda_plus",            "approx=rank38", "seed=0"]  # fmt: skip
COMPARED = ("runs/*/checkpoints/*/adapter_*", "runs/*/metrics.jsonl",
            "runs/*/decode/*/*/*/predictions.jsonl", "runs/*/decode/*/*/*/*/statistics.safetensors",
            "tables/*.csv", "tables/*.md")  # fmt: skip


@dataclass
class Tally:
    """What the kills did."""

    kills: Counter[str] = field(default_factory=Counter)
    worlds: int = 0
    resumes: int = 0
    differences: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost."""
        return not (self.differences or self.again or self.damaged or self.failures)


def work(outputs: Path) -> None:
    """One attempt: the whole path."""
    run_experiment(compose([*SETTINGS, f"outputs={outputs}"]))
    table = build("table1", "toy", outputs, COMMON)
    if not table.has_runs:
        raise RuntimeError("the run is in no row of the table")
    write(table, outputs)


def attempt(outputs: Path, seconds: float | None) -> int | None:
    """Start an attempt in a process of its own and kill it after `seconds`; its exit code, None if it was killed."""
    child = os.fork()
    if child == 0:
        os.setsid()
        code = 1
        try:
            with (outputs.parent / "attempt.log").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                work(outputs)
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def stage(outputs: Path) -> str:
    """What an attempt was doing when it was killed, by what there is."""
    signs = {"render": "runs/*/decode/**/scores.json", "score": "runs/*/decode/*/*/*/predictions.jsonl",
             "decode": "runs/*/training", "train": "runs/*/metrics.jsonl", "approximate": "data/[!.]*"}  # fmt: skip
    return next((name for name, pattern in signs.items() if list(outputs.glob(pattern))), "prepare")


def finished(outputs: Path) -> dict[str, int]:
    """Every finished stage with the inode of its manifest, which changes when it is written again."""
    return {place: (outputs / place / MANIFEST).stat().st_ino for place in all_places(outputs)}


def damaged(outputs: Path) -> list[str]:
    """The stages that are there and not sound."""
    found = []
    for place in all_places(outputs):
        try:
            verify(outputs, place)
        except LodaError as error:
            found.append(str(error))
    return found


def results(outputs: Path) -> dict[str, str]:
    """What is compared, by name."""
    files = (path for pattern in COMPARED for path in outputs.glob(pattern))
    found = {str(path.relative_to(outputs)): sha256(path) for path in files}
    for path in outputs.glob("runs/*/decode/*/*/*/*/scores.json"):
        found[str(path.relative_to(outputs))] = json.dumps(read_json(path)["scores"])
    return found


def chaos(kills: int, seed: int, folder: Path) -> Tally:
    """Kill until there were `kills`."""
    dice, tally = random.Random(seed), Tally()
    peaceful = folder / "peaceful" / "outputs"
    peaceful.mkdir(parents=True)
    started = time.monotonic()
    if attempt(peaceful, None) != 0:
        raise SystemExit((peaceful.parent / "attempt.log").read_text())
    whole, expected = time.monotonic() - started, results(peaceful)
    print(f"an undisturbed run takes {whole:.1f} s; its files: {len(expected)}", flush=True)
    while sum(tally.kills.values()) < kills:
        tally.worlds += 1
        _world(folder / f"world-{tally.worlds}" / "outputs", whole, expected, kills, dice, tally)
    return tally


def _world(
    outputs: Path, whole: float, expected: dict[str, str], kills: int, dice: random.Random, tally: Tally
) -> None:
    outputs.mkdir(parents=True)
    before: dict[str, int] = {}
    while True:
        # One kill in the rendering is enough for a world: there is nothing else left of it.
        last = sum(tally.kills.values()) >= kills or stage(outputs) == "render"
        code = attempt(outputs, None if last else dice.uniform(0, 0.75 * whole))
        now = finished(outputs)
        tally.again += [place for place in before if place in now and now[place] != before[place]]
        before = now
        if code is None:
            tally.kills[stage(outputs)] += 1
            tally.damaged += damaged(outputs)
            continue
        if code != 0:
            tally.failures.append((outputs.parent / "attempt.log").read_text()[-500:])
        break
    trainings = (place for place in now if place.endswith("/training"))
    tally.resumes += sum(read_stage(outputs, place).content["training"]["resumed"] for place in trainings)
    found = results(outputs)
    tally.differences += [
        f"{outputs}/{name}" for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a process with threads cannot be forked
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        build("table1", "toy", Path(folder) / "none", COMMON)  # composes the settings of its rows, for all attempts
        tally = chaos(options.kills, options.seed, Path(folder) / "worlds")
    stages = ", ".join(f"{count} in {name}" for name, count in tally.kills.most_common())
    print(f"{sum(tally.kills.values())} kills ({stages}) in {tally.worlds} worlds, {time.monotonic() - started:.0f} s")
    print(f"trainings resumed: {tally.resumes}")
    for name, found in (("differences", tally.differences), ("finished work done again", tally.again),
                        ("files taken for complete that were damaged", tally.damaged),
                        ("attempts that failed", tally.failures)):  # fmt: skip
        print(f"{name}: {len(found)}", *found, sep="\n  ")
    return 0 if tally.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
