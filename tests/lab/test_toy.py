"""The shipped toy world is what its generator and its card say."""

import re
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


def contexts(split: str) -> set[str]:
    return {line.split("||")[0] for line in restaurants.lines()[split]}


def names(split: str) -> set[str]:
    fields = (field.split(" : ") for context in contexts(split) for field in context.split(" | "))
    return {value for key, value in fields if key in ("name", "near")}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_generator_reproduces_the_shipped_file_byte_for_byte(split, tmp_path):
    restaurants.write(tmp_path)
    assert (tmp_path / f"{split}.txt").read_bytes() == (TOY / "data" / f"{split}.txt").read_bytes()


def test_splits_share_neither_records_nor_names():
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not contexts(one) & contexts(other)
        assert not names(one) & names(other)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_record_has_its_references_in_consecutive_lines(split):
    lines = restaurants.lines()[split]
    size = restaurants.REFERENCES
    groups = [{line.split("||")[0] for line in lines[i : i + size]} for i in range(0, len(lines), size)]
    assert len(groups) == restaurants.RECORDS[split] == len(contexts(split))
    assert all(len(group) == 1 for group in groups)


def test_references_tell_every_value_they_copy():
    for line in restaurants.lines()["test"]:
        context, text = line.split("||")
        for field in context.split(" | "):
            key, value = field.split(" : ")
            if key in ("name", "Type", "food", "price", "customer rating", "near"):
                assert f" {value.lower()} " in f" {text.lower()} "


def test_pretraining_text_is_reproducible_and_knows_no_restaurant_record():
    def sample(seed: int) -> list[str]:
        return [text for text, _ in zip(world.documents(seed), range(300), strict=False)]

    assert sample(3) == sample(3) != sample(4)
    assert not any("food :" in text or "Type : pub" in text or "Type : restaurant" in text for text in sample(3))


def test_paragraph_mark_and_end_of_text_are_single_tokens(tokenizer):
    assert len(tokenizer("\n\n")["input_ids"]) == 1
    assert tokenizer(world.EOS)["input_ids"] == [tokenizer.eos_token_id]


def test_tokenizer_gives_back_any_text(tokenizer):
    text = " Café Zoë : £ 20 – 25 | naïve\n 日本 "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_base_has_the_parameters_of_its_card(model):
    stated = re.search(r"([\d,]+) parameters", CARD)
    assert stated is not None
    assert model.num_parameters() == int(stated.group(1).replace(",", ""))


def test_base_predicts_unseen_text_as_well_as_its_card_says(model, tokenizer):
    bound = re.search(r"must stay below ([\d.]+)", CARD)
    assert bound is not None
    assert pretrain.held_out_loss(model, tokenizer) < float(bound.group(1))
