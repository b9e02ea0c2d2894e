"""What every model card of ours tells the hub, and the card beside an adapter of PEFT, which says what to import."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from loda.atomic import write_text

PAPER = "LoDA: Low-Dimensional Adaptation of Large Language Models (MERL TR2025-130, 2025)"
HEADING = "## Load this LoDA adapter"
TEXT = f"""{HEADING}

```python
import loda.peft  # first: it makes PEFT know the type LODA
from peft import PeftModel

model = PeftModel.from_pretrained(base, "FOLDER")  # base: the model that the adapter was trained on
```

Without the import PEFT ends with `KeyError: 'LODA'`. `pip install 'loda[peft]'`, from the repository of LoDA.
"""


def metadata(base: str | None) -> dict[str, Any]:
    """Paper, licence and base for the front matter; a base that is no repository of the hub is left out."""
    # The licence of the weights follows from what they were trained on, which this code does not know.
    found = {"license": "other", "license_name": "that-of-the-base-model-and-the-data", "paper": PAPER}
    return found | {"base_model": base} if base and _is_repository(base) else found


def _is_repository(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def write_peft_card(folder: Path) -> None:
    """Complete README.md in `folder`, or write it; what it holds already stays, but a path in the place of the base."""
    path = folder / "README.md"
    card = ModelCard.load(path) if path.is_file() else ModelCard("---\nlibrary_name: peft\n---\n")
    own = metadata(card.data.pop("base_model", None))
    tags = {tag for tag in card.data.get("tags") or () if "base_model" in own or not tag.startswith("base_model:")}
    card.data["tags"] = sorted({*tags, "loda"})
    for name, value in own.items():
        card.data[name] = card.data.get(name) or value
    if HEADING not in card.text:
        card.text = f"\n{TEXT}\n{card.text.lstrip()}"
    write_text(path, str(card))
