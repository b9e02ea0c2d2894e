"""Rows, batch order, schedule, milestones: what the training loop is made of."""

import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase

from loda.errors import LodaError
from loda.lab.base.files import SHIPPED
from loda.lab.base.model import load_tokenizer, token_id
from loda.lab.config import compose
from loda.lab.data import Pair
from loda.lab.data.toy import FILES
from loda.lab.run import Outputs
from loda.lab.training import stage as train
from loda.lab.training.checkpoints import horizon, milestones
from loda.lab.training.examples import Row, collate, encode, encoded
from loda.lab.training.loop import pick_device
from loda.lab.training.optimizer import schedule
from loda.lab.training.sampler import ORDERS, batches, steps_per_epoch
from loda.lab.training.stage import training_rows

ARROW = "data-00000-of-00001.arrow"
PUBS = [Pair(f"name : {i}", f"{i} is a pub .") for i in range(50)]


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


@pytest.mark.parametrize("file", [ARROW, "dataset_info.json", "state.json"])
@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("lost", ["cut off", "zero"])
def test_damaged_rows_are_refused(file, kept, lost, tokenizer, tmp_path):
    encoded(tmp_path / "rows", tokenizer, PUBS, 16)
    path = tmp_path / "rows" / file
    content = path.read_bytes()
    rest = content[: int(kept * len(content))]
    path.write_bytes(rest if lost == "cut off" else rest.ljust(len(content), b"\0"))
    with pytest.raises(LodaError, match=r"rows .*delete it, and it is made again"):
        encoded(tmp_path / "rows", tokenizer, PUBS, 16)


def test_rows_of_other_texts_are_refused(tokenizer, tmp_path):
    encoded(tmp_path / "rows", tokenizer, PUBS, 16)
    encoded(tmp_path / "others", tokenizer, PUBS[::-1], 16)
    shutil.copy(tmp_path / "others" / ARROW, tmp_path / "rows" / ARROW)
    with pytest.raises(LodaError, match=f"rows is damaged .*{ARROW}"):
        encoded(tmp_path / "rows", tokenizer, PUBS, 16)


def test_rows_that_could_not_be_written_leave_nothing_behind(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(Dataset, "save_to_disk", lambda self, folder: (folder / "half").touch() or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoded(tmp_path / "rows", tokenizer, [Pair("a", "b")], 16)
    assert not list(tmp_path.iterdir())


def test_tokenised_rows_are_shared_exactly_by_runs_with_the_same_content(tokenizer, tmp_path, monkeypatch):
    def made(*overrides: str, reader: Tokenizer = tokenizer) -> set[str]:
        outputs = Outputs(tmp_path)
        before = set(outputs.data.iterdir()) if outputs.data.is_dir() else set()
        training_rows(compose(["dataset=toy", "model=toy", *overrides]), reader, outputs)
        return {path.name for path in set(outputs.data.iterdir()) - before}

    assert made()
    assert not made("seed=1", "adapter=lora", "optim.epochs=1", "decode.split=valid")
    assert not made(f"dataset.path={shutil.copytree(FILES['train'].folder, tmp_path / 'copy')}")
    assert made("dataset.max_length=128")
    lower_case = load_tokenizer(SHIPPED)
    lower_case.normalizer = Lowercase()
    assert made(reader=lower_case)
    monkeypatch.setitem(FILES, "train", replace(FILES["train"], blob=FILES["train"].blob[:30]))
    assert made()
    monkeypatch.setattr(train, "PROTOCOL", 0)
    assert made()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_each_counted_position_predicts_the_next_id(sizes):
    rows = [Row(list(range(1, given + rest + 1)), given) for given, rest in sizes]
    batch = collate(rows)
    assert int(batch.mask.sum()) == sum(len(row.ids) - row.given for row in rows)
    for i, row in enumerate(rows):
        assert batch.targets[i][batch.mask[i]].tolist() == row.ids[row.given :]
        assert batch.inputs[i][batch.mask[i]].tolist() == row.ids[row.given - 1 : -1]


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=60)


def epochs_of(order: str, lengths: list[int], batch_size: int, seed: int, epochs: int) -> list[list[list[int]]]:
    found = list(batches(order, lengths, batch_size, seed, epochs))
    per_epoch = steps_per_epoch(len(lengths), batch_size)
    assert len(found) == epochs * per_epoch
    return [found[epoch * per_epoch : (epoch + 1) * per_epoch] for epoch in range(epochs)]


@pytest.mark.parametrize("order", ORDERS)
@given(lengths=LENGTHS, batch_size=st.integers(1, 9), seed=st.integers(0, 99), epochs=st.integers(1, 3))
def test_every_epoch_sees_every_row(order, lengths, batch_size, seed, epochs):
    for epoch in epochs_of(order, lengths, batch_size, seed, epochs):
        assert {i for batch in epoch for i in batch} == set(range(len(lengths)))
        assert max(map(len, epoch)) <= batch_size


@given(LENGTHS, st.integers(1, 9), st.integers(0, 99))
def test_the_reference_fills_up_its_last_batch(lengths, batch_size, seed):
    (epoch,) = epochs_of("reference", lengths, batch_size, seed, 1)
    assert {len(batch) for batch in epoch} == {batch_size}


@given(LENGTHS, st.integers(1, 9), st.integers(0, 99))
def test_bucketed_batches_hold_each_row_once_and_overlap_in_no_length(lengths, batch_size, seed):
    (epoch,) = epochs_of("bucketed", lengths, batch_size, seed, 1)
    assert Counter(i for batch in epoch for i in batch) == Counter(range(len(lengths)))
    ranges = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in epoch)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


def test_bucketed_batches_are_shuffled_anew_by_seed_and_epoch():
    lengths = [1 + i % 10 for i in range(200)]
    first, second = epochs_of("bucketed", lengths, 8, 0, 2)
    assert epochs_of("bucketed", lengths, 8, 0, 2) == [first, second]
    (other,) = epochs_of("bucketed", lengths, 8, 7, 1)
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))  # rows of equal length change places
    assert sorted(map(sorted, first)) != sorted(map(sorted, other))
    shortest = [min(lengths[i] for i in batch) for batch in first]
    assert shortest != sorted(shortest)  # short batches do not come first


def test_the_order_is_that_of_a_distributed_sampler():
    from torch.utils.data import DistributedSampler

    sampler = DistributedSampler(range(40), num_replicas=1, rank=0, shuffle=True, seed=110)
    found = list(batches("reference", [1] * 40, 8, 110, 2))
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


@pytest.mark.parametrize(
    ("overrides", "max_steps", "expected"),
    [
        ([], None, 50),
        (["approx=rank300"], None, 100),  # the whole run of ten epochs, as LoRA's code does
        (["optim.schedule_epochs=10"], None, 100),  # the first five of ten epochs
        (["optim.schedule_epochs=10"], 7, 7),
    ],
)
def test_when_the_learning_rate_reaches_zero(overrides, max_steps, expected):
    """80 rows in batches of 8 are 10 batches an epoch."""
    assert horizon(80, compose(overrides).optim, max_steps) == expected


def test_a_run_without_an_update_is_refused():
    optim = compose(["optim.accumulate=8"]).optim
    assert milestones(80, optim, 8)
    with pytest.raises(LodaError, match=r"optim\.accumulate=8 .* only 7"):
        milestones(80, optim, 7)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_not_silently_replaced():
    with pytest.raises(LodaError, match=r"trainer\.device=cuda"):
        pick_device("cuda")
