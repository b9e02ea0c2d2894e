"""Rows and batches against LoRA's FT_Dataset; token ids have no text meaning (train_batches.json)."""

import json

import pytest
import torch

from loda.lab.rows import Row, collate
from tests.parity.reference import DATA

BATCHES = json.loads((DATA / "train_batches.json").read_text())
EXTRA = json.loads((DATA / "dataset_items_extra.json").read_text())


def row(pair: dict, max_length: int) -> Row:
    """The row that `encode` makes of these ids; the reference's context already ends with the separator."""
    return Row([*pair["context"], *pair["completion"]][:max_length], len(pair["context"]))


def padded(values: torch.Tensor, length: int) -> list[int]:
    return [*values.int().tolist(), *[0] * (length - len(values))]


@pytest.mark.parametrize("number", range(len(BATCHES["items"])))
def test_input_target_and_mask_of_every_row(number):
    length = BATCHES["seq_len"]
    batch = collate([row(BATCHES["rows"][number], length)])
    expected = BATCHES["items"][number]
    assert padded(batch.inputs[0], length) == expected["input"]
    assert padded(batch.mask[0], length) == [int(m) for m in expected["mask"]]
    # LoRA's target also holds the context's ids; only masked positions are ever read
    counted = [t for t, m in zip(expected["target"], expected["mask"], strict=True) if m]
    assert batch.targets[0][batch.mask[0]].tolist() == counted


def test_rows_beyond_the_length_are_cut():
    case = EXTRA["cases"]["eval_len32_seq64"]
    length = case["args"]["max_seq_length"]
    for pair, expected in zip(EXTRA["rows"], case["items"], strict=True):
        batch = collate([row(pair, length)])
        assert padded(batch.inputs[0], length) == expected["input"]
        assert padded(batch.mask[0], length) == [int(m) for m in expected["mask"]]


def test_a_prompt_that_is_too_long_keeps_its_last_ids():
    case = EXTRA["cases"]["eval_len32_seq64"]
    room = case["args"]["max_seq_length"] - case["args"]["max_eval_length"]
    for pair, expected in zip(EXTRA["rows"], case["items"], strict=True):
        assert pair["context"][-room:] == expected["query"][: expected["query_len"]]
