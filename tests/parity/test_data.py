"""Data sets against the reference's converter and tokeniser (data_goldens.json): texts, order, counts, token ids."""

import hashlib
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from loda.lab.data import load, load_pairs
from loda.lab.models import load_tokenizer
from loda.lab.rows import encode

SETS = {"e2e": "e2e_valid", "dart": "dart_dev", "webnlg": "webnlg_dev"}


@pytest.fixture(scope="module")
def goldens(shared: Path) -> dict:
    return json.loads((shared / "goldens/lora/data_goldens.json").read_text())["files"]


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "data/gpt2_tokenizer")


@pytest.mark.parametrize("name", SETS)
def test_statistics(name, shared, goldens):
    examples = load(name, "valid", shared / "data" / name)
    stats = goldens[SETS[name]]["stats"]
    assert sum(len(e.references) for e in examples) == stats["lines"]
    assert len(examples) == stats["unique_contexts"]
    assert max(len(e.references) for e in examples) == stats["max_refs_per_context"]


@pytest.mark.parametrize("name", ["e2e", "dart"])
def test_the_whole_formatted_file(name, shared, goldens):
    pairs = load_pairs(name, "valid", shared / "data" / name)
    lines = [json.dumps({"context": p.context, "completion": p.completion}) + "\n" for p in pairs]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest == goldens[SETS[name]]["sha256_formatted_file"]


@pytest.mark.parametrize("name", SETS)
def test_the_first_lines(name, shared, goldens):
    pairs = load_pairs(name, "valid", shared / "data" / name)
    for pair, expected in zip(pairs, goldens[SETS[name]]["first_20_formatted_lines"], strict=False):
        golden = json.loads(expected) if isinstance(expected, str) else expected
        assert (pair.context, pair.completion) == (golden["context"], golden["completion"])


@pytest.mark.parametrize("name", SETS)
def test_token_ids(name, shared, goldens, tokenizer):
    pairs = load_pairs(name, "valid", shared / "data" / name)
    for expected in goldens[SETS[name]]["token_rows"]:
        row = encode(tokenizer, pairs[expected["line_index"]], max_length=512)
        assert row.ids == [*expected["context"], *expected["completion"]]
        assert row.given == len(expected["context"])


@pytest.mark.parametrize(
    ("name", "split", "pairs", "contexts"),
    # shared/data/README.md and protocol document, section 1; contexts of train and of DART's test counted once here
    [("e2e", "train", 42_061, 4_862), ("e2e", "test", 4_693, 630), ("dart", "test", 12_552, None),
     ("webnlg", "train", 18_025, None), ("webnlg", "test", 4_928, 1_862)],
)  # fmt: skip
def test_counts(name, split, pairs, contexts, shared):
    examples = load(name, split, shared / "data" / name)
    assert sum(len(e.references) for e in examples) == pairs
    assert contexts is None or len(examples) == contexts
