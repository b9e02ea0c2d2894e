"""`python -m benchmarks [NAME ...]`: run benchmarks, print their tables and write `outputs/bench/NAME.json`.

Without a name, all of them. `all.json` holds the results of the last call with more than one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas
import torch

from benchmarks import decoding, decoding_real, decoding_step, growth, inference, scoring, train_step
from benchmarks.timing import Row
from benchmarks.workload import SHAPES
from loda.atomic import write_text
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.lab.provenance import provenance

BENCHMARKS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "train_step": train_step.run,
    "train_step_real": train_step.run_real,
    "decoding": decoding.run,
    "decoding_real": decoding_real.run,
    "inference": inference.run,
    "decoding_step": decoding_step.run,
    "scoring_e2e": partial(scoring.run, "e2e"),
    "scoring_dart": partial(scoring.run, "dart"),
    "growth": growth.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    names = options.names or list(BENCHMARKS)
    if not options.names and not decoding_real.is_at_hand():
        names = [name for name in names if not name.endswith("_real")]
        print("benchmarks of a real base are skipped; this fetches SmolLM2: python -m scripts base smollm2_135m")
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise LodaError(f"{unknown[0]} is not a benchmark; there are {', '.join(BENCHMARKS)}")
    if len(names) == 1:
        _run(names[0], options)
        return 0
    # A process for each, so that none starts with the memory or the warm caches of another.
    flags = [argument for argument in arguments if argument not in options.names]
    codes = [subprocess.run([sys.executable, "-m", "benchmarks", name, *flags]).returncode for name in names]
    done = [name for name, code in zip(names, codes, strict=True) if code == 0]
    together = [json.loads((options.outputs / f"{name}.json").read_text()) for name in done]
    write_text(options.outputs / "all.json", json.dumps(together, indent=2) + "\n")
    return int(any(codes))


def _run(name: str, options: argparse.Namespace) -> None:
    started = time.monotonic()
    rows = BENCHMARKS[name](options)
    machine = provenance(time.monotonic() - started, torch.device(options.device)) | {"cores": os.cpu_count()}
    content = {"benchmark": name, "settings": vars(options), "machine": machine, "rows": rows}
    write_text(options.outputs / f"{name}.json", json.dumps(content, indent=2, default=str) + "\n")
    table = pandas.DataFrame(rows).drop(columns=["repeats", "points"], errors="ignore")
    print(f"\n{name}: {machine['device']}, {machine['threads']} threads\n{table.to_string(index=False, na_rep='')}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time every stage.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--model", choices=list(SHAPES), help="shape of the model")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, help="timed turns; every benchmark has its own default")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"))
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "bf16"], help="of a training step and of decoding_real"
    )
    parser.add_argument("--batches", type=int, default=2, help="batches of a timed training")
    parser.add_argument("--variants", nargs="+", choices=train_step.VARIANTS, help="of a training step")
    parser.add_argument("--contexts", type=int, default=8, help="contexts to decode")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 10, 256], help="rows of an inference product")
    parser.add_argument("--instances", type=int, help="outputs of each system (default: all of E2E's, 300 of DART's)")
    return parser


if __name__ == "__main__":
    run_command(main)
