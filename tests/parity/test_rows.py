"""Rows, batches and prompts against LoRA's FT_Dataset; ids without text meaning (train_batches, dataset_items_extra).

Two cases are modes of that class that no experiment of the project uses: a loss on the context too (joint_lm), and
placeholder ids around the context (prefix, infix). There is no setting for them; the parts make them as well.
"""

import json
from collections.abc import Iterable

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from eval.decode.stage import encode_prompts
from loda.lab.base.tokenizer import END_OF_TEXT
from loda.lab.config import compose
from loda.lab.data import Instance, Pair
from loda.lab.training.examples import PADDING, Example, collate, encode
from tests.parity.reference import DATA

BATCHES = json.loads((DATA / "train_batches.json").read_text())
EXTRA = json.loads((DATA / "dataset_items_extra.json").read_text())
CASES = EXTRA["cases"]
SEPARATOR = 1000


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Reads the text "17 4" as the ids 17 and 4; the end of text is the reference's separator."""
    vocabulary = {str(i): i for i in range(1024) if i != SEPARATOR} | {END_OF_TEXT: SEPARATOR}
    words = Tokenizer(WordLevel(vocabulary, unk_token="0"))
    words.pre_tokenizer = WhitespaceSplit()
    return words


def text(ids: Iterable[int]) -> str:
    return " ".join(map(str, ids))


def row(pair: dict, length: int) -> Example:
    """The row that `encode` makes of these ids; the reference's context already ends with the separator."""
    return Example([*pair["context"], *pair["completion"]][:length], len(pair["context"]))


def padded(values: torch.Tensor, length: int) -> list[int]:
    return [*values.int().tolist(), *[0] * (length - len(values))]


def assert_same(one: Example, expected: dict, length: int) -> None:
    """Inputs, mask and targets of a batch of one are those of the reference."""
    batch = collate([one])
    assert padded(batch.inputs[0], length) == expected["input"]
    assert padded(batch.mask[0], length) == expected["mask"]
    # after the last id of a row that was cut, the reference's target holds one more; the mask leaves it out
    expected_targets = [*expected["target"][: len(one.ids) - 1], *[0] * (length - len(one.ids) + 1)]
    assert padded(batch.targets[0], length) == expected_targets
    assert not any(expected["mask"][len(one.ids) - 1 :])


@pytest.mark.parametrize("number", range(len(BATCHES["items"])))
def test_data_input_target_and_mask_of_a_row(number):
    length = BATCHES["seq_len"]
    assert_same(row(BATCHES["rows"][number], length), BATCHES["items"][number], length)


def test_data_batches_are_the_rows_side_by_side_up_to_the_longest():
    length, size = BATCHES["seq_len"], BATCHES["batch_size"]
    for start in range(0, len(BATCHES["rows"]), size):
        items = BATCHES["items"][start : start + size]
        batch = collate([row(pair, length) for pair in BATCHES["rows"][start : start + size]])
        assert [padded(ids, length) for ids in batch.inputs] == [item["input"] for item in items]
        assert [padded(mask, length) for mask in batch.mask] == [item["mask"] for item in items]
        assert batch.inputs.shape[1] == max(sum(1 for i in item["input"] if i != PADDING) for item in items)


def test_data_encoding_appends_the_separator_to_context_and_completion(tokenizer):
    """Of all rows whose completion ends with the separator; the others end with a blank line, which no text does."""
    length = BATCHES["seq_len"]
    pairs = [pair for pair in BATCHES["rows"] if pair["completion"][-1] == SEPARATOR]
    assert len(pairs) == 34
    for pair in pairs:
        made = encode(tokenizer, Pair(text(pair["context"][:-1]), text(pair["completion"][:-1])), length)
        assert made == row(pair, length)


@pytest.mark.parametrize(
    ("new", "length", "rows", "items"),
    # training rows reserve nothing for new tokens: 97 - 1 leaves the whole 96
    [(1, 97, BATCHES["rows"], BATCHES["items"]), (32, 64, EXTRA["rows"], CASES["eval_len32_seq64"]["items"])],
    ids=["train_batches", "eval_len32_seq64"],
)
def test_data_prompts_keep_their_last_ids(new, length, rows, items, tokenizer):
    """What the beam search is given are the reference's queries."""
    config = compose(["dataset=toy", f"dataset.max_length={length}", f"decode.max_new_tokens={new}"]).decode
    examples = [Instance(text(pair["context"][:-1]), ()) for pair in rows]
    prompts = encode_prompts(tokenizer, examples, config, length)
    assert prompts == [item["query"][: item["query_len"]] for item in items]


def test_data_rows_beyond_the_length_are_cut():
    case = CASES["eval_len32_seq64"]
    length = case["args"]["max_seq_length"]
    for pair, expected in zip(EXTRA["rows"], case["items"], strict=True):
        assert_same(row(pair, length), expected, length)


def test_data_joint_lm_is_a_row_of_which_the_first_id_is_given():
    case = CASES["joint_lm"]
    length = case["args"]["max_seq_length"]
    for pair, expected in zip(EXTRA["rows"], case["items"], strict=True):
        assert_same(Example(row(pair, length).ids, prompt_length=1), expected, length)


def test_data_prefix_and_infix_ids_are_a_longer_context():
    case = CASES["prefix3_infix2"]
    prefix = [1_000_000 + i for i in range(case["args"]["prefix_len"])]
    infix = [2_000_000 + i for i in range(case["args"]["infix_len"])]
    length = case["args"]["max_seq_length"]
    for pair, expected in zip(EXTRA["rows"], case["items"], strict=False):  # the reference wrote three of the four
        given = [*prefix, *pair["context"], *infix]
        batch = collate([row({"context": given, "completion": pair["completion"]}, length)])
        assert padded(batch.inputs[0], length) == expected["input"]
        assert padded(batch.mask[0], length) == expected["mask"]
        assert given == expected["query"][: expected["query_len"]]
        # the reference zeroes the placeholders in its target; the loss reads masked positions alone
        counted = [t for t, m in zip(expected["target"], expected["mask"], strict=True) if m]
        assert batch.targets[0][batch.mask[0]].tolist() == counted
