"""Your own data: train.jsonl, valid.jsonl and test.jsonl in the folder `dataset.path`, one JSON object per line.

    {"context": "name : Blue Spice | food : French", "references": ["Blue Spice serves French food .", "..."]}
    {"prompt": "Translate: good morning", "completion": "bonjour"}

Either form in any line; other keys are ignored. The text is taken as it is: no chat template, no normalisation. Equal
contexts are one context with all their references. A run depends on what the files hold, not on where they lie.
"""

import json
from typing import Any

from loda.errors import LodaError
from loda.lab.data import Pair
from loda.lab.data.source import SourceFile

FILES = {split: SourceFile(f"{split}.jsonl") for split in ("train", "valid", "test")}
SHOWN = 3


def pairs(data: bytes) -> list[Pair]:
    """One pair per reference or completion, in the order of the file.

    Raises:
        LodaError: lines that are not as above; the first of them by number.
    """
    if not data.strip():
        raise LodaError("it is empty; write one object to a line")
    found: list[Pair] = []
    wrong: list[str] = []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            found += _pairs(line)
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise LodaError("; ".join(wrong[:SHOWN]) + more)
    return found


def _pairs(line: bytes) -> list[Pair]:
    try:
        entry: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8; save the file in that encoding") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg}); write one object to a line") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply; write one object to a line") from error
    if not isinstance(entry, dict):
        raise ValueError("it is not a JSON object; write {...}")
    if ("context" in entry) == ("prompt" in entry):
        keys = ", ".join(map(json.dumps, list(entry)[:SHOWN])) or "none"
        raise ValueError(f"it needs either context and references, or prompt and completion; its keys are {keys}")
    if "prompt" in entry:
        return [Pair(_text(entry, "prompt"), _text(entry, "completion"))]
    references = entry.get("references")
    if not isinstance(references, list) or not references:
        raise ValueError("references must be a list of at least one text")
    texts = [_text({"references": text}, "references") for text in references]
    return [Pair(_text(entry, "context"), text) for text in texts]


def _text(entry: dict[str, Any], key: str) -> str:
    text = entry.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{key} must be a text that is not empty, not {json.dumps(text)}")
    lone = next((letter for letter in text if "\ud800" <= letter <= "\udfff"), None)
    if lone is not None:
        raise ValueError(f"{key} holds {json.dumps(lone)}, half of a letter; write the letter itself in UTF-8")
    return text
