"""Time a decoding step of every row of the table `frontier`, whose scores `python -m scripts table frontier` gives.

    python -m scripts frontier --profile small

The models are those of the rows, with their approximations, which are made where they are missing, and new adapters:
what an adapter learnt takes no time. All are optimised for inference, in int8 where the row decodes in int8, and decode
a token of ten beams of one context in turns. Writes `results/frontier/steps.json`, from which and from the records
`python -m scripts results` draws the figure. Let nothing run beside it.
"""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import loda
from benchmarks.decoding_step import stored_bytes, token_step
from benchmarks.timing import Row, Step, compare, take_turns
from eval.figures.frontier import STEPS
from eval.tables.runs import row_runs
from eval.tables.spec import read
from loda.atomic import write_text
from loda.lab.base.approximation import get_approximation
from loda.lab.base.files import locate
from loda.lab.base.model import get_base
from loda.lab.command_line import run_command
from loda.lab.device import set_threads
from loda.lab.provenance import provenance

BEAMS = 10


def time_rows(profile: str, settings: Sequence[str], repeats: int) -> list[Row]:
    """Seconds of a step, multiply-accumulates per token, and bytes of every row."""
    steps: dict[str, Step] = {}
    costs: dict[str, Row] = {}
    table = read("frontier")
    for row in table.rows:
        run = row_runs(table, row, table.profile(profile), settings)[0].runs[0]
        experiment = run.experiment
        set_threads(experiment.trainer)
        base = get_base(experiment.model, locate(experiment.model), run.base_key)
        method, approximation = get_approximation(run, base)
        with base.adapted(method, approximation) as model:
            macs = loda.cost(model).model_macs_per_token
            fast = loda.optimize_for_inference(copy.deepcopy(model).eval(), int8=experiment.decode.int8)
        name = f"{row.label}, {row.approx}"
        steps[name] = token_step(fast, BEAMS)
        costs[name] = {"run": run.name, "decode": run.decode_key, "macs": macs, "bytes": stored_bytes(fast)}
    timed = compare(take_turns(steps, repeats), next(iter(steps)))
    return [costs[str(row["name"])] | row for row in timed]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts frontier", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="overrides for all rows, such as outputs=FOLDER")
    parser.add_argument("--profile", default="small", help="of the table: small or toy")
    parser.add_argument("--repeats", type=int, default=7, help="timed turns")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")
    options = parser.parse_intermixed_args(arguments)
    started = time.monotonic()
    rows = time_rows(options.profile, options.settings, options.repeats)
    written = options.results / STEPS
    machine = provenance(time.monotonic() - started, torch.device("cpu"))
    write_text(written, json.dumps({"beams": BEAMS, "machine": machine, "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(
            f"{row['name']}: {1e3 * row['seconds']:.1f} ms, {row['macs'] / 1e6:.1f}M MACs, {row['bytes'] / 1e6:.0f} MB"
        )
    print(f"written: {written}")
    return 0


if __name__ == "__main__":
    run_command(main)
