"""Data sets against the reference's converter and tokeniser (data_goldens.json): texts, order, counts, token ids."""

import csv
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from loda.lab.base.tokenizer import load_tokenizer
from loda.lab.data import Pair, dart, group, load, load_pairs
from loda.lab.data.source import blob_id
from loda.lab.training.examples import Example, encode

SETS = {"e2e": "e2e_valid", "dart": "dart_dev", "webnlg": "webnlg_dev"}
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Corpus:
    """The validation split of one data set, ours, and what the reference made of the same file."""

    pairs: list[Pair]
    rows: list[Example]
    golden: dict


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "data/gpt2_tokenizer")


@pytest.fixture(scope="module", params=SETS)
def corpus(request, shared: Path, tokenizer: Tokenizer) -> Corpus:
    goldens = json.loads((shared / "goldens/lora/data_goldens.json").read_text())["files"]
    pairs = load_pairs(request.param, "valid", shared / "data" / request.param)
    return Corpus(pairs, [encode(tokenizer, pair, 512) for pair in pairs], goldens[SETS[request.param]])


def formatted(pair: Pair) -> str:
    """The line that the reference's converter writes; only WebNLG's knows categories."""
    category = {} if pair.seen is None else {"cate": pair.seen}
    return json.dumps({"context": pair.context, "completion": pair.completion} | category)


def sha256(lines: list[str]) -> str:
    return hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()


def test_data_formatted_file_has_the_sha256_of_the_reference(corpus):
    assert sha256([formatted(pair) for pair in corpus.pairs]) == corpus.golden["sha256_formatted_file"]


def test_data_first_formatted_lines(corpus):
    lines = corpus.golden["first_20_formatted_lines"]
    assert [formatted(pair) for pair in corpus.pairs[:20]] == lines


def test_data_token_file_has_the_sha256_of_the_reference(corpus):
    lines = [
        json.dumps({"context": r.ids[: r.prompt_length], "completion": r.ids[r.prompt_length :]}) for r in corpus.rows
    ]
    assert sha256(lines) == corpus.golden["sha256_token_file"]


def test_data_token_ids_of_single_rows(corpus):
    assert corpus.golden["token_rows"]
    for expected in corpus.golden["token_rows"]:
        pair, row = corpus.pairs[expected["line_index"]], corpus.rows[expected["line_index"]]
        assert (pair.context, pair.completion) == (expected["context_text"], expected["completion_text"])
        assert row.ids == [*expected["context"], *expected["completion"]]
        assert row.prompt_length == len(expected["context"])


def test_data_counts_groups_and_lengths(corpus):
    references = [len(example.references) for example in group(corpus.pairs)]
    contexts = [row.prompt_length for row in corpus.rows]
    completions = [len(row.ids) - row.prompt_length for row in corpus.rows]
    assert {
        "lines": len(corpus.pairs),
        "unique_contexts": len(references),
        "consecutive_groups": len(list(groupby(pair.context for pair in corpus.pairs))),
        "max_refs_per_context": max(references),
        "min_refs_per_context": min(references),
        "max_total_tokens": max(len(row.ids) for row in corpus.rows),
        "max_context_tokens": max(contexts),
        "max_completion_tokens_incl_eos": max(completions),
        "completions_longer_than_64_tokens": sum(n > 64 for n in completions),
        "sum_context_tokens": sum(contexts),
        "sum_completion_tokens": sum(completions),
        "total_over_512": sum(len(row.ids) > 512 for row in corpus.rows),
    } == corpus.golden["stats"]


@pytest.mark.parametrize(
    ("name", "split", "pairs", "contexts"),
    # shared/data/README.md and protocol document, section 1; other numbers of contexts are not published
    [("e2e", "train", 42_061, 4_862), ("e2e", "valid", 4_672, 547), ("e2e", "test", 4_693, 630),
     ("dart", "valid", 6_980, 2_721), ("dart", "test", 12_552, None),
     ("webnlg", "train", 18_025, None), ("webnlg", "valid", 2_258, 870), ("webnlg", "test", 4_928, 1_862),
     ("webnlg", "test_seen", 2_495, 971), ("webnlg", "test_unseen", 2_433, 891)],
)  # fmt: skip
def test_data_counts_of_whole_splits(name, split, pairs, contexts, shared):
    examples = load(name, split, shared / "data" / name)
    assert sum(len(e.references) for e in examples) == pairs
    assert contexts is None or len(examples) == contexts


@pytest.mark.parametrize("split", SPLITS)
def test_data_webnlg_has_unseen_categories_in_its_test_split_alone(split, shared):
    seen = {pair.seen for pair in load_pairs("webnlg", split, shared / "data/webnlg")}
    assert seen == ({True, False} if split == "test" else {True})


def test_data_both_releases_of_darts_test_file_give_the_same_pairs(shared, tmp_path):
    """The later release lacks the entries without annotations and has CRLF line ends (shared/data/README.md)."""
    original = gzip.decompress((shared / "data/dart/dart-v1.1.1-full-test.json.gz").read_bytes())
    entries = json.loads(original)
    kept = [entry for entry in entries if entry["annotations"]]
    assert (len(entries), len(kept)) == (6_959, 5_097)
    later = json.dumps(kept, indent=2).encode().replace(b"\n", b"\r\n")
    assert blob_id(later).startswith("3b663ea2")
    (tmp_path / "dart-v1.1.1-full-test.json").write_bytes(later)
    assert load_pairs("dart", "test", tmp_path) == dart.pairs(original)


def test_data_xml_entities_of_dart_stay_as_they_are(shared):
    folder = shared / "data/dart"
    raw = json.loads(gzip.decompress((folder / "dart-v1.1.1-full-test.json.gz").read_bytes()))
    triples = [triple for entry in raw for triple in entry["tripleset"] * len(entry["annotations"])]
    texts = [annotation["text"] for entry in raw for annotation in entry["annotations"]]
    expected = re.findall(r"&\w+;", json.dumps([triples, texts]))
    pairs = load_pairs("dart", "test", folder)
    found = [entity for pair in pairs for entity in re.findall(r"&\w+;", f"{pair.context} {pair.completion}")]
    assert "&amp;" in expected
    assert Counter(found) == Counter(expected)


def official_pairs(folder: Path, split: str) -> list[Pair]:
    """The pairs of the official CSV files, references stripped."""
    name = {"train": "trainset.csv", "valid": "devset.csv", "test": "testset_w_refs.csv"}[split]
    path = folder / name
    data = path.read_bytes() if path.is_file() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    _, *rows = csv.reader(io.StringIO(data.decode("utf-8"), newline=""))
    return [Pair(meaning, reference.strip()) for meaning, reference in rows]


@pytest.mark.parametrize("split", SPLITS)
def test_data_csv_and_text_of_e2e_are_the_same_examples_line_by_line(split, shared):
    """Row i of the CSV is line i of the text file, up to spaces, punctuation and the names of the slots."""

    def words(text: str) -> str:
        return re.sub(r"\W", "", text)

    def values(meaning: str) -> list[str]:
        return [words(slot.split("[")[1]) for slot in meaning.split("], ")]

    plain = load_pairs("e2e", split, shared / "data/e2e")
    written = official_pairs(shared / "data/e2e", split)
    assert [words(pair.completion) for pair in written] == [words(pair.completion) for pair in plain]
    assert [values(pair.context) for pair in written] == [
        [words(slot.split(" : ", 1)[1]) for slot in pair.context.split(" | ")] for pair in plain
    ]
    assert [len(e.references) for e in group(written)] == [len(e.references) for e in group(plain)]
