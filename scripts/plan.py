"""Plan the ranks of an approximation, without training: which projection has how much of a budget.

    python -m scripts plan model=smollm2_135m dataset=e2e approx=auto approx.budget=0.5 targets=all joint=true

Prints the losses that the plan was made by and what is left of each kind, and writes
`outputs/figures/plan-<name>.{png,pdf}`. Runs with the same settings use the plan, which is plan.json in
`outputs/plans/<name>`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from eval.figures.plan import draw
from eval.figures.style import save
from loda.errors import LodaError
from loda.lab.base import files as base_files
from loda.lab.base.approximation import PLAN_FILE, get_approximation
from loda.lab.base.model import get_base
from loda.lab.command_line import run_command
from loda.lab.config import compose
from loda.lab.device import set_threads
from loda.lab.run import Outputs, Run
from loda.settings import read_json


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts plan", description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds plans/")
    parser.add_argument("settings", nargs="+", help="overrides, as of train.py")
    options = parser.parse_intermixed_args(arguments)
    run = Run(compose([*options.settings, f"outputs={options.outputs}"]))
    plan = run.plan()
    if plan is None:
        raise LodaError(
            f"{run.experiment.method.approx} says its ranks and needs no plan; give approx=auto approx.budget=0.7"
        )
    set_threads(run.experiment.trainer)
    base = get_base(run.experiment.model, base_files.locate(run.experiment.model), run.base_key)
    base.check(run.experiment)
    get_approximation(run, base)
    content = read_json(plan.path / PLAN_FILE)
    modules = pd.DataFrame(content["modules"])
    print(f"{content['share']:.1%} of the multiply-accumulates of the approximated modules are left")
    print("loss on the probed examples: " + ", ".join(f"{name} {loss:.4f}" for name, loss in content["losses"].items()))
    kinds = modules.groupby("kind", sort=False).agg(
        {"rank": ["min", "max"], "macs": "sum", "dense_macs": "sum", "energy": "mean", "output_energy": "mean"}
    )
    kinds.columns = ["least rank", "largest rank", "macs", "dense", "energy", "output energy"]
    kinds.insert(2, "share", kinds.pop("macs") / kinds.pop("dense"))
    print(kinds.to_string(float_format="{:.3f}".format))
    figures, name = Outputs(options.outputs).figures, f"plan-{plan.path.name}"
    save(draw(modules), figures, name)
    print(f"written: {figures / name}.png, .pdf")
    return 0


if __name__ == "__main__":
    run_command(main)
