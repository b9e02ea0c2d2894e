"""Post-processing against gpt2_decode.py on real lines (decode_goldens.json, not part of the repository)."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from eval.postprocess import pad_references, prepare
from loda.lab.data import Pair, group
from loda.lab.models import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "data/gpt2_tokenizer")


@pytest.mark.parametrize("case", ["e2e", "dart", "webnlg_seen"])
def test_prediction_and_reference_files(case, shared, tokenizer):
    golden = json.loads((shared / "goldens/lora/decode_goldens.json").read_text())[case]
    protocol = golden["args"]["ref_type"]
    lines = [json.loads(line) for line in golden["formatted_lines"]]
    seen_only = "seen" in golden["args"]["flags"]
    kept = [line for line in lines if line.get("cate", True) or not seen_only]
    examples = group(Pair(line["context"], line["completion"]) for line in kept)
    # the reference keeps the last prediction of the file for each context
    last = {lines[p["id"]]["context"]: p["predict"] for p in golden["predictions_file_order"]}
    texts = [tokenizer.decode(last[example.context], skip_special_tokens=False) for example in examples]
    # a single line break inside a text breaks the reference's file of one text per line; here it is a space
    expected = golden["output_pred_file"]
    assert " ".join(prepare(protocol, texts)).split() == expected.split()
    references = [prepare(protocol, example.references) for example in examples]
    if protocol == "e2e":
        assert "".join("\n".join(texts) + "\n\n" for texts in references) == golden["output_ref_file"]["file"]
    else:
        padded = [pad_references(texts) for texts in references]
        for number in range(6):
            column = "".join(texts[number] + "\n" for texts in padded)
            assert column == golden["output_ref_file"][f"reference{number}"]
