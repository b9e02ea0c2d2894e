"""Folders of `loda.save_pretrained` and of PEFT: converted both ways, and told apart by whoever opens the wrong one."""

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

import loda
import loda.peft
from loda.adapter_files import TENSOR_FILE, load_tensors, save_tensors
from loda.adapters import Houlsby, LoDA, LoDAPlus, LoRA
from loda.approx import LowRank, Sparse
from loda.errors import LodaError
from tests.ecosystem.models import tiny
from tests.library.models import logits, perturb, untouched

WHOLE = {"gpt2": ("c_attn", "c_fc"), "llama": ("k_proj", "up_proj")}
PATTERN = {"gpt2": r".*\.(c_attn|c_fc)", "llama": r".*\.(q_proj|up_proj)"}


def configs(kind):
    return {
        "lora": loda.LodaConfig(LoRA(r=2, alpha=8.0, dropout=0.1)),
        "loda": loda.LodaConfig(LoDA(init="reference"), slices=("k",)),
        "loda_plus": loda.LodaConfig(LoDAPlus(), slices=("k", "all"), targets=WHOLE[kind]),
        "low_rank": loda.LodaConfig(LoDAPlus(), LowRank(rank=8), joint=kind == "llama"),
        "sparse": loda.LodaConfig(LoRA(), Sparse(keep=0.4), layers_to_transform=(1,)),
        "pattern": loda.LodaConfig(LoRA(rank_pattern={r"1\..*": 2}), slices=("q", "all"), targets=PATTERN[kind]),
        "whole": loda.LodaConfig(
            LoDAPlus(use_rslora=True), modules_to_save=WHOLE[kind][1:], exclude_modules=r".*\.0\..*"
        ),
    }


@pytest.mark.parametrize("name", configs("gpt2"))
@pytest.mark.parametrize("kind", WHOLE)
def test_an_adapter_gives_the_same_logits_in_both_formats(kind, name, tmp_path):
    model = perturb(loda.inject(tiny(kind), configs(kind)[name]))
    loda.save_pretrained(model, tmp_path / "ours")
    base = tiny(kind)
    with untouched(base):
        loda.to_peft(tmp_path / "ours", tmp_path / "theirs", base)
    in_peft = PeftModel.from_pretrained(tiny(kind), tmp_path / "theirs")
    assert torch.equal(logits(in_peft), logits(model))
    in_peft.save_pretrained(tmp_path / "again")
    with untouched(base):
        loda.from_peft(tmp_path / "again", tmp_path / "back", base)
    back = loda.from_pretrained(tiny(kind), tmp_path / "back")
    assert torch.equal(logits(back), logits(model))
    assert loda.cost(back).trainable_parameters == loda.cost(model).trainable_parameters


@pytest.mark.parametrize("settings", [{}, {"variant": "lora", "target_modules": ["v_proj", "up_proj"]}], ids=str)
def test_an_adapter_that_peft_trained_converts(settings, tmp_path):
    config = loda.peft.LodaConfig(task_type="CAUSAL_LM", slices=["q", "v", "all"], **settings)
    model = perturb(get_peft_model(tiny("llama"), config)).eval()
    model.save_pretrained(tmp_path / "theirs")
    loda.from_peft(tmp_path / "theirs", tmp_path / "ours", tiny("llama"))
    assert torch.equal(logits(loda.from_pretrained(tiny("llama"), tmp_path / "ours")), logits(model))


def classifier(seed: int = 0) -> PreTrainedModel:
    body = tiny("llama")
    body.config.pad_token_id = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(body.config)
    model.base_model.load_state_dict(body.base_model.state_dict())
    return model.eval()


def test_a_classifier_that_peft_trained_converts_with_its_head(tmp_path):
    model = perturb(get_peft_model(classifier(), loda.peft.LodaConfig(task_type="SEQ_CLS"))).eval()
    model.save_pretrained(tmp_path / "theirs")
    loda.from_peft(tmp_path / "theirs", tmp_path / "ours", classifier(seed=1))
    again = loda.from_pretrained(classifier(seed=1), tmp_path / "ours")
    assert torch.equal(logits(again), logits(model))


def test_what_the_other_format_cannot_say_is_refused_and_nothing_is_written(tmp_path):
    base = tiny("llama")
    loda.save_pretrained(loda.inject(tiny("llama"), loda.LodaConfig(Houlsby(r=2))), tmp_path / "houlsby")
    rank = loda.LodaConfig(LoRA(), LowRank(rank=8))
    loda.save_pretrained(loda.inject(tiny("llama"), rank), tmp_path / "stored", with_approximation=True)
    loda.save_pretrained(loda.inject(tiny("llama"), rank), tmp_path / "recipe")
    for folder, model, rule in (
        ("houlsby", base, "holds adapter=houlsby, which PEFT's format cannot"),
        ("stored", base, r"holds approximation\.safetensors, which PEFT's format cannot"),
        ("recipe", tiny("llama", seed=1), "another base model"),
    ):
        with pytest.raises(LodaError, match=rule):
            loda.to_peft(tmp_path / folder, tmp_path / "out", model)
    settings = loda.peft.LodaConfig(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers")
    get_peft_model(tiny("llama"), settings).save_pretrained(tmp_path / "theirs")
    with pytest.raises(LodaError, match="layers_pattern='layers' is a setting of PEFT"):
        loda.from_peft(tmp_path / "theirs", tmp_path / "out", base)
    get_peft_model(tiny("llama"), loda.peft.LodaConfig()).save_pretrained(tmp_path / "theirs")
    for other, rule in ((tiny("llama", hidden_size=16), "shape"), (tiny("gpt2"), "q_proj")):
        with pytest.raises(LodaError, match=rule):
            loda.from_peft(tmp_path / "theirs", tmp_path / "out", other)
    tensors = load_tensors(tmp_path / "theirs" / TENSOR_FILE)
    next(iter(tensors.values()))[0] = torch.inf
    save_tensors(tensors, tmp_path / "theirs" / TENSOR_FILE)
    with pytest.raises(LodaError, match="not finite"):
        loda.from_peft(tmp_path / "theirs", tmp_path / "out", base)
    assert not (tmp_path / "out").exists()
    with pytest.raises(LodaError, match="exists already"):
        loda.to_peft(tmp_path / "recipe", tmp_path / "theirs", base)


def test_a_folder_opened_by_the_wrong_door_says_which_is_the_right_one(tmp_path):
    loda.save_pretrained(loda.inject(tiny("gpt2"), loda.LodaConfig(LoRA())), tmp_path / "ours")
    loda.to_peft(tmp_path / "ours", tmp_path / "theirs", tiny("gpt2"))
    with pytest.raises(LodaError, match=r"a folder of PEFT.*import loda\.peft.*or convert it with loda\.from_peft"):
        loda.from_pretrained(tiny("gpt2"), tmp_path / "theirs")
    with pytest.raises(LodaError, match=r"is not that of a LoDA adapter in PEFT"):
        loda.from_peft(tmp_path / "ours", tmp_path / "out", tiny("gpt2"))
    ours = r"load it with loda\.from_pretrained, or convert it with loda\.to_peft"
    with pytest.raises(KeyError, match=ours):
        PeftModel.from_pretrained(tiny("gpt2"), tmp_path / "ours")
    with pytest.raises(OSError, match=ours):
        AutoModelForCausalLM.from_pretrained(tmp_path / "ours")


def test_the_card_beside_a_peft_adapter_says_what_to_import(tmp_path):
    model = get_peft_model(tiny("gpt2"), loda.peft.LodaConfig())
    (tmp_path / "README.md").write_text("---\ntags: [mine]\n---\n# My adapter\n")
    for _ in range(2):
        model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "loda" in card.data.tags
    assert card.text.count("import loda.peft") == 1
    assert "# My adapter" in card.text


@pytest.mark.parametrize("licence", [None, "apache-2.0"])
@pytest.mark.parametrize("base", ["openai-community/gpt2", "a folder"])
def test_the_card_beside_a_peft_adapter_names_paper_licence_and_a_base_of_the_hub(tmp_path, base, licence):
    name = str(tmp_path) if base == "a folder" else base
    model = tiny("gpt2")
    model.config._name_or_path = name
    if licence:
        (tmp_path / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    get_peft_model(model, loda.peft.LodaConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    data = ModelCardData(**yaml.safe_load(text.split("---")[1]))
    assert data.base_model == (None if base == "a folder" else base)
    assert data.license == licence or (licence is None and data.license == "other")
    assert "TR2025-130" in data.to_dict()["paper"]
    assert str(tmp_path) not in text
