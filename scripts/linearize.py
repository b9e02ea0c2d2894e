"""How non-linear the adapters of a finished run are, and the nearest LoRA.

    python -m scripts linearize RUN --rank 4
    python -m scripts linearize RUN --rank 4 --save FOLDER     and save the LoRA there

Prints the error of the LoRA and the loss on the validation split before and after, and writes
`outputs/figures/linearize-<run>.{png,pdf,json}`: per layer, the part of the adapters' output that no linear map gives.
Such a JSON file in `results/linearize/` is a row of docs/results.md.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

import loda
from eval.figures.nonlinearity import draw
from eval.figures.style import save
from eval.results import collect
from loda.atomic import write_text
from loda.errors import LodaError
from loda.lab.base import files as base_files
from loda.lab.base.approximation import get_approximation, token_batches
from loda.lab.base.model import get_base
from loda.lab.base.tokenizer import load_tokenizer
from loda.lab.command_line import run_command
from loda.lab.config import Experiment
from loda.lab.device import set_threads
from loda.lab.run import Outputs, Run
from loda.lab.training.examples import collate, training_examples, validation_examples
from loda.lab.training.validation import validation_loss
from loda.linearization import LinearFit
from loda.settings import load


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts linearize", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the folder of a run, or its name in the outputs folder")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds runs/")
    parser.add_argument("--rank", type=int, default=4, help="of the LoRA")
    parser.add_argument("--examples", type=int, default=128, help="training examples that the LoRA is fitted on")
    parser.add_argument("--save", type=Path, help="a folder for the LoRA")
    options = parser.parse_args(arguments)
    folder = Outputs(options.outputs).find(options.run)
    records = [record for record in collect(folder.parents[1]) if record.run == folder.name]
    if not records:
        raise LodaError(f"{folder} has no scores; finish the run first")
    run = Run(load(Experiment, records[-1].settings | {"outputs": str(folder.parents[1])}))
    fits, before, after = linearize(run, options.rank, options.examples, options.save)
    table = pd.DataFrame([asdict(fit) for fit in fits])
    name = f"linearize-{run.name}"
    figures = Outputs(options.outputs).figures
    content = {"run": run.name, "rank": options.rank, "examples": options.examples, "loss": before, "lora_loss": after}
    write_text(figures / f"{name}.json", json.dumps(content | {"fits": [asdict(fit) for fit in fits]}, indent=1) + "\n")
    save(draw({run.experiment.method.adapter.name: fits}), figures, name)
    means = table.groupby("slice")[["error", "nonlinearity"]].mean()
    for part, row in means.iterrows():
        error, nonlinearity = row["error"], row["nonlinearity"]
        print(f"{part}: rank {options.rank} misses {error:.1%} of the output, any linear map {nonlinearity:.1%}")
    print(f"loss on the validation split: {before:.4f}, with the LoRA {after:.4f}")
    print(f"written: {figures / name}.png, .pdf, .json")
    return 0


def linearize(run: Run, rank: int, examples: int, folder: Path | None) -> tuple[list[LinearFit], float, float]:
    """Fit the LoRA of the last checkpoint and return how well it fits, and the loss before and after."""
    experiment = run.experiment
    set_threads(experiment.trainer)
    base = get_base(experiment.model, base_files.locate(experiment.model), run.base_key)
    tokenizer = load_tokenizer(base.folder)
    training, validation = training_examples(run, tokenizer), validation_examples(run, tokenizer)
    number = min(examples, len(training))
    chosen = [training[i * len(training) // number] for i in range(number)]
    _, approximation = get_approximation(run, base)
    with base.loaded(run.checkpoint(run.checkpoints[-1]).path, approximation) as model:
        before = validation_loss(model, validation, collate)
        fits = loda.linearize(model, rank, token_batches(chosen, "linearize"))
        after = validation_loss(model, validation, collate)
        if folder is not None:
            loda.save_pretrained(model, folder, base_fingerprint=base.fingerprint)
    return fits, before, after


if __name__ == "__main__":
    run_command(main)
