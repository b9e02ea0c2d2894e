"""The loss on the validation split."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import loda
from loda.lab.base.files import SHIPPED
from loda.lab.base.model import load_base
from loda.lab.base.tokenizer import load_tokenizer
from loda.lab.config import compose
from loda.lab.run import Run
from loda.lab.training.examples import Example, collate, validation_examples
from loda.lab.training.loop import prepared
from loda.lab.training.packing import pack
from loda.lab.training.validation import validation_loss
from tests.conftest import run_experiment

EXPERIMENT = compose(["model=toy", "dataset=toy", "trainer.max_steps=4", "trainer.threads=1", "decode=greedy"])
EXAMPLES = [Example(list(range(7 + i, 15 + 3 * i)), 3 + i % 4) for i in range(1, 40)]


@pytest.fixture(scope="module")
def model():
    return load_base(EXPERIMENT.model, SHIPPED)


@torch.no_grad()
def test_it_is_the_mean_over_all_target_tokens(model):
    losses = [
        F.cross_entropy(
            model(torch.tensor([example.ids])).logits[0, example.prompt_length - 1 : -1],
            torch.tensor(example.ids[example.prompt_length :]),
            reduction="none",
        )
        for example in EXAMPLES
    ]
    assert validation_loss(model, EXAMPLES, collate) == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


def test_packing_and_dropout_change_nothing(model):
    loda.inject(model, loda.LodaConfig(loda.adapters.LoDAPlus(dropout=0.5)))
    model.train()
    padded = validation_loss(model, EXAMPLES, collate)
    assert model.training
    with prepared(model, EXPERIMENT.trainer, packing=True):
        assert validation_loss(model, EXAMPLES, pack) == pytest.approx(padded, rel=1e-5)
    loda.unload(model)


@pytest.mark.parametrize(("number", "expected"), [(0, []), (3, [0, 16, 32]), (None, range(48)), (100, range(48))])
def test_examples_are_spread_over_the_split(number, expected):
    def chosen(valid_examples):
        trainer = replace(EXPERIMENT.trainer, valid_examples=valid_examples)
        return validation_examples(Run(replace(EXPERIMENT, trainer=trainer)), tokenizer)

    tokenizer = load_tokenizer(SHIPPED)
    everything = chosen(None)
    assert chosen(number) == [everything[i] for i in expected]


def test_it_stands_beside_the_scores_and_leaves_the_training_alone(tmp_path):
    def record(valid_examples):
        trainer = replace(EXPERIMENT.trainer, valid_examples=valid_examples)
        (found,) = run_experiment(replace(EXPERIMENT, trainer=trainer, outputs=str(tmp_path)))
        return found

    with_loss, without = record(20), record(0)
    assert with_loss.scores.pop("LOSS") > 0
    assert with_loss.scores == without.scores
    assert with_loss.hashes["adapter"] == without.hashes["adapter"]
    assert with_loss.run != without.run
