"""The model card that lies beside an adapter of PEFT: it says what to import, and carries the tag `loda`."""

from pathlib import Path

from huggingface_hub import ModelCard

from loda.atomic import write_text

HEADING = "## Load this LoDA adapter"
TEXT = f"""{HEADING}

```python
import loda.peft  # first: it makes PEFT know the type LODA
from peft import PeftModel

model = PeftModel.from_pretrained(base, "FOLDER")  # base: the model that the adapter was trained on
```

Without the import PEFT ends with `KeyError: 'LODA'`. `pip install 'loda[peft]'`, from the repository of LoDA.
"""


def write_peft_card(folder: Path) -> None:
    """Complete README.md in `folder`, or write it; what it holds already stays."""
    path = folder / "README.md"
    card = ModelCard.load(path) if path.is_file() else ModelCard("---\nlibrary_name: peft\n---\n")
    card.data["tags"] = sorted({*(card.data.get("tags") or ()), "loda"})
    if HEADING not in card.text:
        card.text = f"\n{TEXT}\n{card.text.lstrip()}"
    write_text(path, str(card))
