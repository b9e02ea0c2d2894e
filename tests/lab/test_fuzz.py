"""Any input ends in a right answer or in one sentence: never in a traceback of internals, a hang or a wrong number."""

import contextlib
import importlib
import itertools
import json
import math
import pkgutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import loda
import loda.lab.data
from eval.score import score_with_statistics
from eval.score.text_files import read_corpus
from loda.adapter_files import APPROXIMATION_FILE, CONFIG_FILE, TENSOR_FILE
from loda.adapters import LoDAPlus
from loda.approx import LowRank
from loda.errors import LodaError
from loda.lab.config import compose
from loda.lab.data import load_pairs
from loda.lab.data.source import SourceFile
from loda.manifest import read_manifest, write_manifest
from tests.library.models import tiny_gpt2

BUDGET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["entries", "1", "tripleset", "annotations", "text", "modifiedtripleset", "lexicalisations", "comment", "lex",
        "category", "context", "references", "prompt", "completion"]  # fmt: skip
NEARLY = st.recursive(
    st.sampled_from(["a", "good", "", " : ", "\ud800"]) | st.none() | st.integers(0, 2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
BYTES = st.binary(max_size=60) | st.text(alphabet='a|:[]{}",\n\r ', max_size=40).map(str.encode)
MADE_BY_CODE = ("source", "toy")
DATASETS = [module.name for module in pkgutil.iter_modules(loda.lab.data.__path__) if module.name not in MADE_BY_CODE]


def lines(values) -> bytes:
    return "\n".join(json.dumps(value) for value in values).encode()


FILES = BYTES | (JSON | NEARLY).map(lambda value: lines([value])) | st.lists(NEARLY, max_size=4).map(lines)


def read(name: str, data: bytes, folder: Path):
    """The pairs of a training file with this content."""
    files = importlib.import_module(f"loda.lab.data.{name}").FILES
    original: SourceFile = files["train"]
    try:
        files["train"] = replace(original, blob=None, pairs=None)
        (folder / original.name).write_bytes(data)
        return load_pairs(name, "train", folder)
    finally:
        files["train"] = original


@pytest.mark.parametrize("name", DATASETS)
@given(data=FILES)
@BUDGET
def test_a_reader_gives_texts_or_a_sentence(name, data, tmp_path):
    try:
        pairs = read(name, data, tmp_path)
    except LodaError:
        return
    assert all(isinstance(pair.context, str) and isinstance(pair.completion, str) for pair in pairs)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("e2e", b"a context without its text"),
        ("dart", b'[{"tripleset": [["a", "b", "c"]], "annotations": [{"text": 0}]}]'),
        ("dart", b'[{"tripleset": [["a", "b"]], "annotations": [{"text": "c"}]}]'),
        ("webnlg", b'{"entries": [{"2": {}}]}'),
        ("e2e", b"\xff||a"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(name, data, tmp_path):
    with pytest.raises(LodaError, match=rf"train\.\w+ is not in the form of dataset\.name={name} .*fetch"):
        read(name, data, tmp_path)


TEXT_FILES = st.lists(st.text(alphabet="ab .£\"'|-\r\t\u2028", max_size=12), max_size=6).map("\n".join)


@given(references=TEXT_FILES, hypotheses=TEXT_FILES)
@example(references="a.a.a\n\na", hypotheses="a.a.a\na.")  # BLEU 1.08, see below
@BUDGET
def test_the_scorer_gives_numbers_in_their_range_or_a_sentence(references, hypotheses, tmp_path):
    paths = tmp_path / "refs", tmp_path / "hyps"
    for path, text in zip(paths, (references, hypotheses), strict=True):
        path.write_bytes(text.encode())
    try:
        found = score_with_statistics(read_corpus("e2e", *paths), ["bleu", "nist"])
    except LodaError:
        return
    (bleu, rows), (nist, _) = found["BLEU"], found["NIST"]
    assert bleu >= 0
    assert math.isfinite(bleu)
    # The official script counts len - 3 four-grams in a text, also where that is negative, so that short texts take
    # from the count of the others and BLEU can exceed 1. Where no text is that short, it cannot.
    if min(row[-1] for row in rows) >= 0:
        assert bleu <= 1.0 + 1e-9
    assert nist >= 0
    assert math.isfinite(nist)


SETTINGS = ["optim.lr", "optim.epochs", "adapter.r", "seed", "decode.num_beams", "trainer.packing", "slices", "targets"]


@given(key=st.sampled_from(SETTINGS), value=st.text(alphabet="0123456789-.eainfNul[]{},q '\"$", max_size=8))
@settings(BUDGET, max_examples=60)
def test_a_setting_is_taken_or_refused_in_a_sentence(key, value):
    with contextlib.suppress(LodaError):
        compose(["model=toy", "dataset=toy", f"{key}={value}"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(LoDAPlus(), LowRank(rank=8)))
    loda.save_pretrained(model, folder, with_approximation=True)
    return folder


def test_every_altered_bit_of_a_manifest_is_noticed(tmp_path):
    """Also a bit that makes 1e-05 to 1E-05, which is the same number."""
    path = tmp_path / "manifest.json"
    write_manifest(path, {"eps": 1e-5, "context": "£", "seed": None})
    original = path.read_bytes()
    for place, bit in itertools.product(range(len(original)), range(8)):
        altered = bytearray(original)
        altered[place] ^= 1 << bit
        path.write_bytes(altered)
        with pytest.raises(LodaError, match=r"manifest\.json"):
            read_manifest(path)


@pytest.mark.parametrize("name", [CONFIG_FILE, TENSOR_FILE, APPROXIMATION_FILE])
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
@settings(BUDGET, max_examples=80)
def test_an_altered_bit_of_an_adapter_is_noticed_and_the_file_named(saved, place, bit, name):
    path = saved / name
    original = path.read_bytes()
    altered = bytearray(original)
    altered[round(place * (len(altered) - 1))] ^= 1 << bit
    path.write_bytes(altered)
    try:
        with pytest.raises(LodaError, match=name):
            loda.from_pretrained(tiny_gpt2(), saved)
    finally:
        path.write_bytes(original)
    loda.from_pretrained(tiny_gpt2(), saved)
