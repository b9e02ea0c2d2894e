"""The model card of a trained adapter: its folder can go to the hub as it is (docs/ecosystem.md)."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from eval.results import Record
from loda.atomic import write_text
from loda.card import PAPER, metadata

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


def write_card(record: Record, folder: Path) -> None:
    """Write README.md into the folder of the scored adapter."""
    write_text(folder / "README.md", card(record))


def card(record: Record) -> str:
    """The text of the card, with the front matter that the hub reads."""
    model, method = record.settings["model"], record.settings["method"]
    if model["path"] is not None:  # then nothing came from the hub
        model = model | {"hub_id": None}
    chosen = {name: method[name] for name in ("adapter", "approx", "slices")}
    chosen |= {name: record.settings[name] for name in ("optim", "decode")}
    results = [
        EvalResult("text-generation", record.dataset, record.dataset, name, value, dataset_split=record.split)
        for name, value in record.scores.items()
    ]
    front_matter = ModelCardData(
        library_name="loda",
        pipeline_tag="text-generation",
        tags=["loda", record.adapter],
        model_name=record.run,
        eval_results=results,
        **metadata(model["hub_id"]),
    )
    return str(
        ModelCard.from_template(
            front_matter,
            template_path=str(TEMPLATE),
            record=record,
            model=model,
            cost=record.cost,
            settings=chosen,
            paper=PAPER,
        )
    )
