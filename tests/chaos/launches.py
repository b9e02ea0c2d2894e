"""Stop commands of several processes at random moments, and compare what they end with with undisturbed ones.

    python -m tests.chaos.launches --kills 10

Two commands: a training over two processes by `python -m scripts torchrun`, and a table of two runs by `--processes 2`.
A signal (SIGKILL, SIGTERM or SIGUSR1) goes to any one of a command's processes, or SIGKILL to all; when all have ended
the command is given again, until it gets through. Adapters, metrics, predictions, statistics and scores are compared.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.chaos.__main__ import damaged, results
from tests.conftest import REPOSITORY

COMMON = ["trainer.device=cpu", "trainer.threads=1", "trainer.state_interval_minutes=0", "trainer.valid_examples=4",
          "decode.num_beams=1", "decode.max_new_tokens=4", "dataset.metrics=[bleu]"]  # fmt: skip
COMMANDS = {
    "torchrun": ["-m", "scripts", "torchrun", "--standalone", "--nproc_per_node", "2", "train.py", "model=toy",
                 "dataset=toy", "adapter=loda_plus", "optim=toy", "trainer.max_steps=60", *COMMON],
    "table": ["-m", "scripts", "table", "table1", "--profile", "toy", "--rows", "LoRA", "--processes", "2",
              "trainer.max_steps=60", *COMMON],
}  # fmt: skip
ENDED = 120
"""Seconds after which what a killed command has left behind must have ended."""


def start(name: str, outputs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, *COMMANDS[name], f"outputs={outputs}"]
    with (outputs.parent / f"{outputs.name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)


def processes(outputs: Path) -> list[psutil.Process]:
    """All that work on these outputs, also those whose parent is gone."""
    mark = f"outputs={outputs}"
    return [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or ())]


def disturb(name: str, outputs: Path, seconds: float, dice: random.Random) -> str | None:
    """Start the command and stop it after `seconds`; how, or None if it was done before. All of it has ended then."""
    command, chosen = start(name, outputs), dice.choice(("SIGKILL", "SIGTERM", "SIGUSR1", "SIGKILL to all"))
    try:
        command.wait(seconds)
    except subprocess.TimeoutExpired:
        found = processes(outputs)
        for process in found if chosen.endswith("all") else [dice.choice(found)]:
            process.send_signal(getattr(signal, chosen.partition(" ")[0]))
        command.wait()
        _, left = psutil.wait_procs(found, timeout=ENDED)
        if left:
            raise SystemExit(f"{left} went on for {ENDED} s after {chosen}") from None
        return chosen
    return None


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.launches", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="of each of the two commands")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    dice, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        for name in COMMANDS:
            peace, begun = Path(folder) / f"{name}-peace", time.monotonic()
            if start(name, peace).wait() != 0:
                raise SystemExit(peace.with_name(f"{peace.name}.log").read_text())
            whole, expected = time.monotonic() - begun, results(peace)
            how, world = Counter[str](), 0
            while how.total() < options.kills:
                outputs = Path(folder) / f"{name}-{world}"
                while how.total() < options.kills:
                    # From the imports on; a command that is nearly done gets through.
                    if (stopped := disturb(name, outputs, dice.uniform(0.2, 1) * whole, dice)) is None:
                        break
                    how[stopped] += 1
                code, world = start(name, outputs).wait(), world + 1
                found = results(outputs)
                names = {name for name in (*expected, *found) if not name.endswith(".md")}  # which hold the path
                problems = [name for name in names if expected.get(name) != found.get(name)] + damaged(outputs)
                problems += [f"exit code {code}"] if code else []
                wrong += len(problems)
                print(*problems, sep="\n", end="\n" if problems else "")
            signals = ", ".join(f"{count} {signal}" for signal, count in how.most_common())
            print(f"{name}: {how.total()} times stopped ({signals}) in {world} worlds; undisturbed {whole:.0f} s")
    print(f"differences: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
