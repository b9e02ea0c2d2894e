"""Rows, batch order, schedule, milestones: what the training loop is made of."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loda.errors import LodaError
from loda.lab.config import compose
from loda.lab.data import Pair
from loda.lab.loop import milestones, pick_device
from loda.lab.models import SHIPPED, load_tokenizer, token_id
from loda.lab.optim import schedule
from loda.lab.order import batches, steps_per_epoch
from loda.lab.rows import Row, collate, encode, encoded


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(SHIPPED)


def test_a_row_ends_context_and_completion_with_the_end_token(tokenizer):
    end = token_id(tokenizer, "<|endoftext|>")
    row = encode(tokenizer, Pair("name : A", "A is a pub ."), 512)
    assert row.ids[row.given - 1] == end
    assert row.ids[-1] == end
    assert tokenizer.decode(row.ids[: row.given - 1]) == "name : A"
    assert tokenizer.decode(row.ids[row.given : -1]) == " A is a pub ."


def test_special_strings_in_a_text_are_ordinary_text(tokenizer):
    end = token_id(tokenizer, "<|endoftext|>")
    row = encode(tokenizer, Pair("a<|endoftext|>b", "c"), 512)
    assert row.ids.count(end) == 2


def test_a_stop_text_of_several_tokens_is_refused(tokenizer):
    with pytest.raises(LodaError, match="not one token"):
        token_id(tokenizer, "several words, certainly")


def test_encoded_rows_come_back_from_disk(tokenizer, tmp_path):
    pairs = [Pair("name : A", "A ."), Pair("name : B", "")]
    first = encoded(tmp_path / "rows", tokenizer, pairs, 16)
    assert first == [encode(tokenizer, pair, 16) for pair in pairs]
    assert encoded(tmp_path / "rows", tokenizer, [], 16) == first


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_each_counted_position_predicts_the_next_id(sizes):
    rows = [Row(list(range(1, given + rest + 1)), given) for given, rest in sizes]
    batch = collate(rows)
    assert int(batch.mask.sum()) == sum(len(row.ids) - row.given for row in rows)
    for i, row in enumerate(rows):
        assert batch.targets[i][batch.mask[i]].tolist() == row.ids[row.given :]
        assert batch.inputs[i][batch.mask[i]].tolist() == row.ids[row.given - 1 : -1]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 99), st.integers(1, 3))
def test_every_epoch_sees_every_row(rows, batch_size, seed, epochs):
    found = list(batches(rows, batch_size, seed, epochs))
    per_epoch = steps_per_epoch(rows, batch_size)
    assert len(found) == epochs * per_epoch
    for epoch in range(epochs):
        counts = Counter(i for batch in found[epoch * per_epoch : (epoch + 1) * per_epoch] for i in batch)
        assert set(counts) == set(range(rows))
        assert sum(counts.values()) == per_epoch * batch_size


def test_the_order_is_that_of_a_distributed_sampler():
    from torch.utils.data import DistributedSampler

    sampler = DistributedSampler(range(40), num_replicas=1, rank=0, shuffle=True, seed=110)
    found = list(batches(40, 8, 110, 2))
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        assert [i for batch in found[(epoch - 1) * 5 : epoch * 5] for i in batch] == list(sampler)


def test_the_schedule_warms_up_from_zero_and_ends_at_zero():
    factor = schedule(500, 26_290)
    assert factor(0) == 0
    assert factor(250) == 0.5
    assert factor(500) == 1
    assert factor(26_290) == 0
    # the horizon is the whole run: half-way through ten epochs the rate is about half the peak (protocol document, 5)
    assert schedule(500, 52_580)(26_290) == pytest.approx(0.505, abs=0.001)


@pytest.mark.parametrize(
    ("overrides", "max_steps", "labels"),
    [
        ([], None, ["epoch-5"]),
        (["approx=rank300"], None, ["epoch-5", "epoch-10"]),
        (["approx=rank300", "optim.epochs=3"], None, ["epoch-3"]),
        (["approx=rank300"], 70, ["epoch-5", "step-70"]),
        ([], 7, ["step-7"]),
        ([], 50, ["epoch-5"]),
    ],
)
def test_which_adapters_are_kept(overrides, max_steps, labels):
    found = milestones(80, compose(overrides).optim, max_steps)
    assert [mark.label for mark in found] == labels


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_not_silently_replaced():
    with pytest.raises(LodaError, match=r"trainer\.device=cuda"):
        pick_device("cuda")
