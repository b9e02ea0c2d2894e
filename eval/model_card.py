"""The model card of a trained adapter: its folder can go to the hub as it is (docs/ecosystem.md)."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from eval.results import Record
from loda.atomic import write_text

TEMPLATE = """---
{{ card_data }}
---

# {{ adapter }} on {{ base }}, trained on {{ dataset }}

| {{ names }} |
| {{ rules }} |
| {{ values }} |

{{ contexts }} contexts of the {{ split }} split, scored as `{{ scorer }}` in the units of the official scripts; epoch
{{ epoch }}, seed {{ seed }}.

## Load

```python
import loda  # pip install from the repository of LoDA
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({{ base_arguments }}, dtype="float32")
model = loda.from_pretrained(base, "FOLDER")  # this folder; another base is refused
```

The model was trained on the context, the base's end-of-text token, and the text after a space.

## Cost and settings

| | |
| --- | --- |
| trained parameters | {{ trained }} |
| multiply-accumulates per token, whole model | {{ macs }} (the base alone: {{ base_macs }}) |
| training | {{ steps }} batches of {{ batch_size }}, {{ seconds }} s on {{ device }} |
{{ settings }}
"""


def write_card(record: Record, folder: Path) -> None:
    """Write README.md into the folder of the scored adapter."""
    write_text(folder / "README.md", card(record))


def card(record: Record) -> str:
    """The text of the card, with the front matter that the hub reads."""
    assert record.training is not None  # an untrained model has no adapter to describe
    model, cost, names = record.settings["model"], record.cost, list(record.scores)
    method, hub_id = record.settings["method"], model["hub_id"]
    chosen = {name: method[name] for name in ("adapter", "approx", "slices")}
    chosen |= {name: record.settings[name] for name in ("optim", "decode")}
    text = ModelCard.from_template(
        _front_matter(record, hub_id),
        template_str=TEMPLATE,
        adapter=record.adapter,
        base=hub_id or record.model,
        dataset=record.dataset,
        names=" | ".join(names),
        rules=" | ".join("---" for _ in names),
        values=" | ".join(f"{record.scores[name]:.4f}" for name in names),
        contexts=record.contexts,
        split=record.split,
        scorer=record.scorer,
        epoch=f"{record.epoch:g}",
        seed=record.seed,
        base_arguments=f'"{hub_id}", revision="{model["revision"]}"' if hub_id else f'"{record.model}"',
        trained=f"{cost.trainable_parameters:,}",
        macs=f"{cost.model_macs_per_token:,}",
        base_macs=f"{cost.base_model_macs_per_token:,}",
        steps=f"{record.training['steps']:,}",
        batch_size=record.settings["optim"]["batch_size"],
        seconds=f"{record.training['seconds']:,.0f}",
        device=record.provenance["training"]["device"],
        settings="\n".join(f"| {name} | `{value}` |" for name, value in chosen.items()),
    )
    return f"{text}\n"


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
