"""Examples, batch order, schedule, checkpoints: what the training loop is made of."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase

from loda.errors import LodaError
from loda.lab.base.files import SHIPPED
from loda.lab.base.tokenizer import load_tokenizer, token_id
from loda.lab.config import compose
from loda.lab.data import load_pairs
from loda.lab.data.toy import FILES
from loda.lab.run import Run
from loda.lab.training.checkpoints import checkpoints, total_steps
from loda.lab.training.examples import encode, training_examples
from loda.lab.training.sampler import batches, steps_per_epoch


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(SHIPPED)


def test_a_stop_text_of_several_tokens_is_refused(tokenizer):
    with pytest.raises(LodaError, match="not one token"):
        token_id(tokenizer, "several words, certainly")


def test_tokenised_examples_come_back_from_disk_and_are_shared_by_runs_with_the_same_content(tokenizer, tmp_path):
    def made(*overrides: str, reader: Tokenizer = tokenizer) -> set[Path]:
        before = set(tmp_path.glob("outputs/data/*"))
        run = Run(compose(["dataset=toy", "model=toy", f"outputs={tmp_path / 'outputs'}", *overrides]))
        length = run.experiment.dataset.max_length
        assert training_examples(run, reader) == [encode(reader, pair, length) for pair in load_pairs("toy", "train")]
        return set(tmp_path.glob("outputs/data/*")) - before

    assert made()
    assert not made("seed=1", "adapter=lora", "optim.epochs=1", "decode.split=valid")
    assert not made(f"dataset.path={shutil.copytree(FILES['train'].folder, tmp_path / 'copy')}")
    assert made("dataset.max_length=128")
    lower_case = load_tokenizer(SHIPPED)
    lower_case.normalizer = Lowercase()
    assert made(reader=lower_case)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 99), st.integers(1, 3))
def test_every_epoch_sees_every_example_in_full_batches(num_examples, batch_size, seed, epochs):
    found, per_epoch = list(batches(num_examples, batch_size, seed, epochs)), steps_per_epoch(num_examples, batch_size)
    assert len(found) == epochs * per_epoch
    assert {len(batch) for batch in found} == {batch_size}
    for epoch in range(epochs):
        seen = {i for batch in found[epoch * per_epoch : (epoch + 1) * per_epoch] for i in batch}
        assert seen == set(range(num_examples))


def test_the_order_is_that_of_a_distributed_sampler():
    from torch.utils.data import DistributedSampler

    sampler = DistributedSampler(range(40), num_replicas=1, rank=0, shuffle=True, seed=110)
    found = list(batches(40, 8, 110, 2))
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        assert [i for batch in found[(epoch - 1) * 5 : epoch * 5] for i in batch] == list(sampler)


@pytest.mark.parametrize(
    ("overrides", "max_steps", "names"),
    [
        ([], None, ["epoch-5"]),
        (["optim=paper_approx"], None, ["epoch-5", "epoch-10"]),
        (["optim=paper_approx", "optim.epochs=3"], None, ["epoch-3"]),
        (["optim=paper_approx"], 70, ["epoch-5", "step-70"]),
        ([], 7, ["step-7"]),
        ([], 50, ["epoch-5"]),
    ],
)
def test_which_adapters_are_kept(overrides, max_steps, names):
    found = checkpoints(80, compose(overrides).optim, max_steps)
    assert [checkpoint.name for checkpoint in found] == names


@pytest.mark.parametrize(
    ("overrides", "max_steps", "expected"),
    [
        ([], None, 50),
        (["optim=paper_approx"], None, 100),  # the whole run of ten epochs, as LoRA's code does
        (["optim.lr_schedule_epochs=10"], None, 100),  # the first five of ten epochs
        (["optim.lr_schedule_epochs=10"], 7, 7),
    ],
)
def test_when_the_learning_rate_reaches_zero(overrides, max_steps, expected):
    """80 examples in batches of 8 are 10 batches an epoch."""
    assert total_steps(80, compose(overrides).optim, max_steps) == expected


def test_a_run_without_an_update_is_refused():
    optim = compose(["optim.gradient_accumulation_steps=8"]).optim
    assert checkpoints(80, optim, 8)
    with pytest.raises(LodaError, match=r"optim\.gradient_accumulation_steps=8 .* only 7"):
        checkpoints(80, optim, 7)
