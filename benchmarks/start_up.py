"""Seconds to the first answer, each time in a fresh process, and those of the approximations of a model.

    python -m benchmarks.start_up
    python -m benchmarks.start_up --model gpt2_medium --demo

`--demo` adds the toy run from nothing to its scores (`train.py model=toy dataset=toy`), in a folder of its own.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial

import torch

from benchmarks.report import Row, begin, finish, parser
from benchmarks.timing import interleave
from benchmarks.workload import SHAPES
from loda.approx import LowRank, Sparse

COMMANDS = {
    "python -c 'import loda'": ["-c", "import loda"],
    "python train.py --help": ["train.py", "--help"],
    "a misspelt setting": ["train.py", "adaptor=lora"],
    "an impossible value": ["train.py", "adapter=lora", "adapter.r=0"],
    "python -m eval.score --help": ["-m", "eval.score", "--help"],
    "python -m scripts.status": ["-m", "scripts.status"],
}


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    options = parser("start_up", "Start-up of the commands, approximation of a model.")
    options.add_argument("--model", default="gpt2_small", choices=SHAPES)
    options.add_argument("--demo", action="store_true", help="also time the toy run, some minutes")
    options.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS, metavar="COMMAND")
    arguments = options.parse_args(argv)
    started = begin(arguments)
    steps = {name: partial(_run, COMMANDS[name]) for name in arguments.commands}
    timings = interleave(steps, arguments.repeats)
    lines = [Row(name, timing.median) for name, timing in timings.items()]
    details = {name: timing.seconds for name, timing in timings.items()}
    approximations: dict[str, LowRank | Sparse] = {"low-rank": LowRank(rank=16), "sparse": Sparse(keep=0.4)}
    for name, approx in approximations.items():
        seconds = _approximate(approx, arguments.model)
        lines.append(Row(f"{name}, {SHAPES[arguments.model][0]} layers of {arguments.model}", seconds))
    if arguments.demo:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            _run(["train.py", "model=toy", "dataset=toy", f"outputs={folder}"])
            lines.append(Row("toy run, training to scores", time.perf_counter() - begun))
    finish("start_up", arguments, started, lines, details)


def _run(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], capture_output=True, check=False)


def _approximate(approx: LowRank | Sparse, shape: str) -> float:
    """Seconds for the projections of all layers, of random weights."""
    layers, width, _ = SHAPES[shape]
    total = 0.0
    for _ in range(layers):
        weight = torch.randn(width, 3 * width) * 0.02
        begun = time.perf_counter()
        approx.approximate(weight)
        total += time.perf_counter() - begun
    return total


if __name__ == "__main__":
    main()
