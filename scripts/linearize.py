"""How non-linear the adapters of a finished run are, and the nearest LoRA.

    python -m scripts linearize RUN --rank 4
    python -m scripts linearize RUN --rank 4 --save FOLDER     and save the LoRA there

Prints the error of the LoRA, the loss on the validation split and the scores of the texts before and after, and writes
`outputs/figures/linearize-<run>.{png,pdf,json}`: per layer, the part of the adapters' output that no linear map gives.
Such a JSON file in `results/linearize/` is a row of docs/results.md.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

import loda
from eval.decode.beam import batches, search
from eval.decode.stage import rules_of
from eval.figures.nonlinearity import draw
from eval.figures.style import save
from eval.pipeline import Inputs, check
from eval.results import collect
from eval.score import make_corpus, score
from eval.score.stage import metrics_of
from loda.atomic import write_text
from loda.errors import LodaError
from loda.lab.base.approximation import get_approximation, token_batches
from loda.lab.command_line import run_command
from loda.lab.config import Experiment
from loda.lab.device import set_threads
from loda.lab.progress import progress_bar
from loda.lab.run import Outputs, Run
from loda.lab.training.examples import collate
from loda.lab.training.validation import validation_loss
from loda.linearization import LinearFit
from loda.settings import load

Pair = tuple[float, float]
"""A value of the adapters and one of the LoRA."""


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
    # Of several ways to decode, the test split with the fewest beams, which takes the least time.
    chosen = min(records, key=lambda record: (record.split != "test", record.settings["decode"]["num_beams"]))
    run = Run(load(Experiment, chosen.settings | {"outputs": str(folder.parents[1])}))
    fits, losses, scores = linearize(run, options.rank, options.examples, options.save)
    name = f"linearize-{run.name}-rank{options.rank}"
    figures = Outputs(options.outputs).figures
    content = {"run": run.name, "rank": options.rank, "examples": options.examples, "losses": losses, "scores": scores}
    write_text(figures / f"{name}.json", json.dumps(content | {"fits": [asdict(fit) for fit in fits]}, indent=1) + "\n")
    save(draw({run.experiment.method.adapter.name: fits}), figures, name)
    means = pd.DataFrame([asdict(fit) for fit in fits]).groupby("slice")[["error", "nonlinearity"]].mean()
    for part, row in means.iterrows():
        error, nonlinearity = row["error"], row["nonlinearity"]
        print(f"{part}: rank {options.rank} misses {error:.1%} of the output, any linear map {nonlinearity:.1%}")
    scored = {f"{metric} of {run.experiment.decode.split}": pair for metric, pair in scores.items()}
    for what, (before, after) in {"loss on the validation split": losses, **scored}.items():
        print(f"{what}: {before:.4f}, with the LoRA {after:.4f}")
    print(f"written: {figures / name}.png, .pdf, .json")
    return 0


def linearize(run: Run, rank: int, examples: int, folder: Path | None) -> tuple[list[LinearFit], Pair, dict[str, Pair]]:
    """Fit the LoRA of the last checkpoint: how well it fits, and the loss and the scores before and after."""
    inputs = check(run)
    if not inputs.validation:
        raise LodaError("trainer.valid_examples=0 leaves nothing to compare losses on; train with 1 or more, or null")
    set_threads(run.experiment.trainer)
    number = min(examples, len(inputs.examples))
    chosen = [inputs.examples[i * len(inputs.examples) // number] for i in range(number)]
    _, approximation = get_approximation(run, inputs.base)
    with inputs.base.loaded(run.checkpoint(run.checkpoints[-1]).path, approximation) as model:
        loss, scores = validation_loss(model, inputs.validation, collate), _scores(model, run.experiment, inputs)
        fits = loda.linearize(model, rank, token_batches(chosen, "linearize"))
        losses = loss, validation_loss(model, inputs.validation, collate)
        if folder is not None:
            loda.save_pretrained(model, folder, base_fingerprint=inputs.base.fingerprint)
        after = _scores(model, run.experiment, inputs)
    return fits, losses, {name: (score, after[name]) for name, score in scores.items()}


def _scores(model: PreTrainedModel, experiment: Experiment, inputs: Inputs) -> dict[str, float]:
    """The scores of the texts of `model`, in its own precision."""
    texts = [""] * len(inputs.prompts)
    rules = rules_of(experiment.decode, inputs.stop)
    with progress_bar("decode", len(texts), "context") as bar:
        for batch in batches(inputs.prompts, experiment.decode.batch_size):
            for i, best in zip(batch, search(model, [inputs.prompts[i] for i in batch], rules), strict=True):
                texts[i] = inputs.tokenizer.decode(best.tokens, skip_special_tokens=False)
            bar.update(len(batch))
    dataset = experiment.dataset
    return score(make_corpus(dataset.scorer, texts, inputs.instances, experiment.decode.stop), metrics_of(dataset))


if __name__ == "__main__":
    run_command(main)
