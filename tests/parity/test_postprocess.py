"""Post-processing against gpt2_decode.py on real lines (decode_goldens.json, not part of the repository)."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from eval.score.corpus import Corpus
from eval.score.postprocess import NUM_REFERENCES, make_corpus
from loda.lab.base.tokenizer import load_tokenizer
from loda.lab.data import Pair, group, load_pairs

LORA_STOP = ("<|endoftext|>", "\n\n")


@dataclass(frozen=True)
class Case:
    """Lines of one data set with predictions: what the reference read and wrote, and what our scorer reads."""

    golden: dict
    lines: list[Pair]
    corpus: Corpus


@pytest.fixture(scope="module", params=["e2e", "dart", "webnlg_seen"])
def case(request, shared: Path) -> Case:
    golden = json.loads((shared / "goldens/lora/decode_goldens.json").read_text())[request.param]
    scorer, flags = golden["args"]["ref_type"], golden["args"]["flags"]
    pairs = load_pairs(scorer, "valid", shared / "data" / scorer)
    lines = [pairs[index] for index in golden["source_line_indices"]]
    examples = group(pair for pair in lines if "seen" not in flags or pair.seen)
    # the reference keeps the last prediction of the file for each context
    last = {lines[p["id"]].context: p["predict"] for p in golden["predictions_file_order"]}
    tokenizer = load_tokenizer(shared / "data/gpt2_tokenizer")
    texts = [tokenizer.decode(last[example.context], skip_special_tokens=False) for example in examples]
    return Case(golden, lines, make_corpus(scorer, texts, examples, LORA_STOP))


def test_postprocess_reads_the_same_lines(case):
    found = [json.loads(line) for line in case.golden["formatted_lines"]]
    assert case.lines == [Pair(line["context"], line["completion"], line.get("cate")) for line in found]


def test_postprocess_groups_by_context(case):
    assert case.golden["stdout"] == [f"unique refer dict {len(case.corpus.references)}"]


def test_postprocess_prediction_file(case):
    assert "".join(text + "\n" for text in case.corpus.hypotheses) == case.golden["output_pred_file"]


def test_postprocess_reference_files(case):
    expected = case.golden["output_ref_file"]
    references = case.corpus.references
    if case.golden["args"]["ref_type"] == "e2e":
        assert {"file": "".join("\n".join(texts) + "\n\n" for texts in references)} == expected
    else:
        assert case.golden["args"]["ref_num"] == NUM_REFERENCES
        columns = enumerate(zip(*references, strict=True))
        assert {f"reference{j}": "".join(text + "\n" for text in texts) for j, texts in columns} == expected
