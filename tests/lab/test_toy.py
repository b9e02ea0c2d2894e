"""The shipped toy world is what its generator and its card say."""

import hashlib
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from scripts.toy import pretrain, restaurants, world

TOY = Path(__file__).resolve().parents[2] / "loda" / "lab" / "toy"
CARD = (TOY / "base" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TOY / "base")


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(TOY / "base", dtype=torch.float32)


def contexts(split: str) -> list[str]:
    return [line.split("||")[0] for line in restaurants.lines()[split]]


def names(split: str) -> set[str]:
    return {value for context in contexts(split) for value in re.findall(r"(?:name|near) : ([^|]+\w)", context)}


def test_the_generator_reproduces_the_shipped_data_byte_for_byte(tmp_path):
    restaurants.write(tmp_path)
    for split in restaurants.RECORDS:
        assert (tmp_path / f"{split}.txt").read_bytes() == (TOY / "data" / f"{split}.txt").read_bytes()


def test_splits_share_no_names_and_keep_the_references_of_a_record_together():
    assert not names("train") & (names("valid") | names("test"))
    assert not names("valid") & names("test")
    for split, records in restaurants.RECORDS.items():
        distinct = list(dict.fromkeys(contexts(split)))
        assert len(distinct) == records
        assert contexts(split) == [context for context in distinct for _ in range(restaurants.REFERENCES)]


def test_the_pretraining_text_is_the_one_that_the_base_was_trained_on():
    text = "".join(text for document in islice(world.documents(pretrain.SEED), 2000) for text, _ in document)
    assert hashlib.sha256(text.encode()).hexdigest().startswith("cf69abf6a8e9131d")
    assert not re.search("food :|Type : (pub|restaurant)", text)


def test_a_rebuilt_tokenizer_is_the_shipped_one(tokenizer):
    assert pretrain.train_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_the_tokenizer_has_single_tokens_for_marks_and_gives_back_any_text(tokenizer):
    assert len(tokenizer("\n\n")["input_ids"]) == 1
    assert tokenizer(world.EOS)["input_ids"] == [tokenizer.eos_token_id]
    text = " Café Zoë : £ 20 – 25 | naïve\n 日本 "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_base_has_the_parameters_and_the_loss_of_its_card(model, tokenizer):
    parameters, bound = re.search(r"([\d,]+) parameters", CARD), re.search(r"must stay below ([\d.]+)", CARD)
    assert model.num_parameters() == int(parameters.group(1).replace(",", ""))
    assert pretrain.held_out_loss(model, tokenizer) < float(bound.group(1))
