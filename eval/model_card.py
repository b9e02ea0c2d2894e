"""A model card beside a trained adapter, with its scores and predictions: the folder can go to the hub as it is.

checkpoints/epoch-5/
  adapter_config.json, adapter_model.safetensors      what `loda.from_pretrained` reads
  README.md                                           the card
  scores.json, predictions.jsonl                      of the scoring that the card tells of, the latest

from huggingface_hub import HfApi
HfApi().upload_folder(folder_path="outputs/runs/RUN/checkpoints/epoch-5", repo_id="NAME/REPOSITORY")
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from eval.results import Record
from loda.atomic import write_text
from loda.sealed import write_sealed

TEMPLATE = """---
{front_matter}
---

# {adapter} on {base}, trained on {dataset}

| {names} |
| {rules} |
| {values} |

{contexts} contexts of the {split} split, scored by the recipe `{protocol}`, in the units of the official scripts; epoch
{epoch:g}, seed {seed}. `scores.json` has everything that determined them, `predictions.jsonl` the texts.

## Load

```python
import loda  # pip install from the repository of LoDA
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base_arguments}, dtype="float32")
model = loda.from_pretrained(base, "FOLDER")  # this folder; another base is refused
```

The model was trained on rows of the context, the base's end-of-text token, and the text after a space.

## Cost

| | |
| --- | --- |
| trained parameters | {trained:,} |
| multiply-accumulates per token, whole model | {macs:,} (the base alone: {base_macs:,}) |
| training | {steps:,} batches of {batch_size}, {seconds:,.0f} s on {device} |

## Settings

| | |
| --- | --- |
{settings}
"""


def write_card(record: Record, folder: Path, predictions: Path) -> None:
    """Put the card of a scored adapter, its scores and its predictions into the adapter's folder."""
    write_text(folder / predictions.name, predictions.read_text(encoding="utf-8"))
    write_sealed(folder / "scores.json", asdict(record))
    write_text(folder / "README.md", card(record))


def card(record: Record) -> str:
    """The text of the card, with the front matter that the hub reads."""
    assert record.training is not None  # an untrained model has no adapter to describe
    model, training, cost = record.settings["model"], record.training, record.cost
    hub_id, names = model["hub_id"], list(record.scores)
    base = f'"{hub_id}", revision="{model["revision"]}"' if hub_id else f'"{record.model}"'
    method = record.settings["method"]
    chosen = {"adapter": method["adapter"], "approx": method["approx"], "slices": method["slices"]}
    chosen |= {"optim": record.settings["optim"], "decode": record.settings["decode"]}
    return TEMPLATE.format(
        front_matter=_front_matter(record, hub_id).to_yaml(),
        adapter=record.adapter,
        base=hub_id or record.model,
        dataset=record.dataset,
        names=" | ".join(names),
        rules=" | ".join("---" for _ in names),
        values=" | ".join(f"{record.scores[name]:.4f}" for name in names),
        contexts=record.contexts,
        split=record.split,
        protocol=record.protocol,
        epoch=record.epoch,
        seed=record.seed,
        base_arguments=base,
        trained=cost.trainable_parameters,
        macs=cost.model_macs_per_token,
        base_macs=cost.base_model_macs_per_token,
        steps=training["steps"],
        batch_size=record.settings["optim"]["batch_size"],
        seconds=training["seconds"],
        device=record.provenance["training"]["device"],
        settings="\n".join(f"| {name} | `{value}` |" for name, value in chosen.items()),
    )


def _front_matter(record: Record, hub_id: str | None) -> ModelCardData:
    results = [
        EvalResult("text-generation", record.dataset, record.dataset, name, value, dataset_split=record.split)
        for name, value in record.scores.items()
    ]
    known: dict[str, Any] = {"base_model": hub_id} if hub_id else {}
    return ModelCardData(
        library_name="loda",
        pipeline_tag="text-generation",
        tags=["loda", record.adapter],
        model_name=record.run,
        eval_results=results,
        **known,
    )
