"""LoDA inside Hugging Face PEFT: everything that a PEFT user does with a method, on tiny models."""

import json
from functools import partial

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import CodeGenConfig, CodeGenForCausalLM, PreTrainedModel, Trainer, TrainingArguments

import loda
import loda.peft
from loda.adapters import LoDAPlus
from loda.approx import LowRank
from loda.errors import LodaError
from loda.projection import projections
from tests.ecosystem.models import LOWRANK, D, adapted, config, tiny
from tests.library.models import TOKENS, assert_a_cache_changes_nothing, logits, perturb, state, untouched

TOO_HIGH = {"name": "low_rank", "rank": 300}


def test_a_layer_computes_what_the_library_computes_with_as_many_parameters():
    model = adapted(target_modules=["c_attn"], slices=("q", "v"))
    ours = loda.inject(tiny("gpt2"), loda.LodaConfig(LoDAPlus()))
    for name, projection in projections(ours).items():
        layer = model.get_base_model().get_submodule(name)
        for part, adapter in projection.adapters.items():
            adapter.load_state_dict(layer.adapters("default")[part].state_dict())
    assert torch.equal(logits(model), logits(ours))
    assert model.get_nb_trainable_parameters()[0] == loda.cost(ours).trainable_parameters


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("approx", [None, LOWRANK, {"name": "sparse", "keep": 0.4}], ids=["dense", "rank", "keep"])
def test_saved_and_loaded_it_gives_the_same_logits(kind, approx, tmp_path):
    model = adapted(kind, approx=approx)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny(kind), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not loda.trainable_parameters(loaded)
    again = PeftModel.from_pretrained(tiny(kind), tmp_path, is_trainable=True, adapter_name="other")
    assert torch.equal(logits(again), logits(model))
    assert loda.trainable_parameters(again)


def test_the_file_holds_the_recipe_of_an_approximation_and_not_its_weights(tmp_path):
    adapted(approx=LOWRANK).save_pretrained(tmp_path / "low_rank")
    adapted().save_pretrained(tmp_path / "dense")
    sizes = {path.name: (path / "adapter_model.safetensors").stat().st_size for path in tmp_path.iterdir()}
    assert sizes["low_rank"] == sizes["dense"]
    saved = json.loads((tmp_path / "low_rank" / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["approx"]) == ("LODA", LOWRANK)
    with pytest.raises(LodaError, match="over another base"):
        PeftModel.from_pretrained(tiny("gpt2", seed=1), tmp_path / "low_rank")


@pytest.mark.parametrize(
    ("kind", "joint"), [("gpt2", False), ("llama", False), ("llama", True), ("bloom", False)], ids=str
)
def test_an_approximation_is_the_librarys(kind, joint):
    model = get_peft_model(tiny(kind), config(approx=LOWRANK, joint=joint))
    ours = loda.inject(tiny(kind), loda.LodaConfig(LoDAPlus(), LowRank(rank=8), joint=joint))
    assert torch.equal(logits(model), logits(ours))
    assert torch.equal(logits(model.bfloat16()), logits(ours.bfloat16()))  # it moves with the model


@pytest.mark.parametrize("approx", [None, LOWRANK], ids=["dense", "low_rank"])
def test_an_adapter_loads_with_low_cpu_mem_usage(approx, tmp_path):
    model = adapted("llama", approx=approx)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny("llama"), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(loaded), logits(model))
    assert torch.equal(logits(loaded.bfloat16()), logits(model.bfloat16()))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gpt2", {"c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"}),
        # without k, which the slices leave bare
        ("llama", {"q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_all_linear_modules_are_those_that_the_slices_do_not_leave_bare(kind, names):
    found = get_peft_model(tiny(kind), config(target_modules="all-linear")).targeted_module_names
    assert len(found) == 2 * len(names)
    assert all(name.endswith(tuple(names)) for name in found)


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("llama", {"approx": LOWRANK}, {"variant": "lora", "r": 2, "slices": ("k",)}),
        *((kind, *[{"approx": LOWRANK, "target_modules": "all-linear"}] * 2) for kind in ("gpt2", "llama")),
        # This pattern matches h.0.attn.c_attn, and with the first adapter there also h.0.attn.c_attn.base_layer.
        ("gpt2", *[{"approx": LOWRANK, "target_modules": r".*\.c_attn.*"}] * 2),
    ],
    ids=["others", "all-linear gpt2", "all-linear llama", "pattern"],
)
def test_two_adapters_are_saved_and_loaded_by_their_names(kind, first, second, tmp_path):
    model = adapted(kind, **first)
    model.add_adapter("second", config(**second))
    model.set_adapter("second")
    perturb(model, seed=2)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny(kind), tmp_path / "second", adapter_name="second")
    assert torch.equal(logits(loaded), logits(model))
    loaded.load_adapter(tmp_path, "default")
    for name in ("default", "second"):
        model.set_adapter(name)
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded), logits(model))


def fused_twice() -> PreTrainedModel:
    base = tiny("gpt2")
    base.transformer.h[1].attn.c_attn = base.transformer.h[0].attn.c_attn
    return base


BARE = r"k_proj, which is k; slices=\('q', 'v'\) would leave it without"


@pytest.mark.parametrize(
    ("make", "settings", "rule"),
    [
        (partial(tiny, "llama"), {"target_modules": ["q_proj", "k_proj", "v_proj"]}, BARE),
        (partial(tiny, "llama"), {"target_modules": r".*\.[qkv]_proj"}, BARE),
        (
            partial(tiny, "gpt2"),
            {"target_modules": ["c_attn", "ln_2"]},
            r"h\.0\.ln_2 is a LayerNorm; LoDA adapts",
        ),
        (partial(tiny, "gpt2"), {"approx": TOO_HIGH}, "rank=300 exceeds"),
        (partial(tiny, "gpt2"), {"approx": TOO_HIGH, "target_modules": "all-linear"}, "rank=300 exceeds"),
        (
            partial(tiny, "gpt2"),
            {"approx": {"name": "low_rank", "rank": 8, "calibration": 2}},
            "calibration=2.* needs inputs of the model, which PEFT cannot give",
        ),
        (fused_twice, {}, "are one module"),
    ],
    ids=["bare", "bare by pattern", "norm", "rank", "rank of all", "calibration", "two places"],
)
def test_what_does_not_fit_is_refused_before_anything_is_touched(make, settings, rule):
    base = make()
    with untouched(base), pytest.raises(LodaError, match=rule):
        get_peft_model(base, config(**settings))


def test_an_unknown_architecture_is_refused_with_its_modules():
    base = CodeGenForCausalLM(CodeGenConfig(vocab_size=64, n_embd=D, n_layer=2, n_head=4, rotary_dim=4))
    for settings in ({}, {"target_modules": ["qkv_proj"]}):
        with pytest.raises(LodaError, match=r"h\.\*\.attn\.qkv_proj"):
            get_peft_model(base, config(**settings))
    whole = get_peft_model(base, config(target_modules=["qkv_proj"], slices=["all"]))
    assert len(whole.targeted_module_names) == 2


def test_several_adapters_are_set_disabled_and_deleted():
    model = adapted(variant="loda_plus")
    first = logits(model)
    model.add_adapter("second", config(variant="lora", r=2, approx=LOWRANK))
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    second = logits(perturb(model, seed=2))
    assert not torch.equal(first, second)
    assert all(".second." in name for name in loda.trainable_parameters(model))
    with model.disable_adapter():
        approximated = get_peft_model(tiny("gpt2"), config(approx=LOWRANK))
        assert torch.equal(logits(model), logits(approximated))
    assert torch.equal(logits(model), second)
    model.set_adapter("default")
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny("gpt2")))
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)
    assert not any("second" in name for name, _ in model.named_parameters())


def test_a_refused_pair_of_adapters_leaves_the_active_one_active_everywhere():
    # The first layer holds one of the two alone, so it could not tell.
    model = adapted(variant="lora")
    model.add_adapter("second", config(approx=LOWRANK, layers_to_transform=[1]))
    model.set_adapter("second")
    before = logits(perturb(model, seed=2))
    with pytest.raises(LodaError, match="cannot be active together"):
        model.base_model.set_adapter(["default", "second"])
    assert torch.equal(logits(model), before)


def test_two_adapters_act_together():
    model = adapted(variant="lora")
    one = logits(model)
    model.add_adapter("second", config(variant="lora"))
    model.set_adapter("second")
    perturb(model, seed=2)
    model.base_model.set_adapter(["default", "second"])
    both = logits(model)
    assert not torch.equal(both, one)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), both, rtol=1e-4, atol=1e-4)


def test_unload_gives_the_base_back():
    for approx in (None, LOWRANK):
        base = adapted(approx=approx).unload()
        assert torch.equal(logits(base), logits(tiny("gpt2")))
        assert [type(m) for m in base.modules()] == [type(m) for m in tiny("gpt2").modules()]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_a_linear_adapter_merges_and_unmerges(kind):
    model = adapted(kind, variant="lora")
    before = logits(model)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    merged = model.merge_and_unload(safe_merge=True)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(logits(merged), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{"variant": "loda"}, {}, {"variant": "lora", "approx": LOWRANK}], ids=str)
@pytest.mark.parametrize("call", ["merge_adapter", "merge_and_unload"])
def test_what_cannot_be_merged_is_refused_before_anything_is_touched(settings, call):
    model = adapted(**settings)
    with untouched(model), pytest.raises(LodaError, match="cannot be merged"):
        getattr(model, call)()


def test_a_tied_weight_is_not_merged():
    model = adapted("llama", variant="lora", target_modules=["lm_head"], slices=("all",), tie_word_embeddings=True)
    with untouched(model), pytest.raises(LodaError, match=r"of lm_head is model\.embed_tokens\.weight too"):
        model.merge_and_unload()
    model.delete_adapter("default")
    model.add_adapter("other", config(variant="lora"))  # beside the tied weight, not on it
    model.set_adapter("other")
    assert not isinstance(model.merge_and_unload(), PeftModel)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("approx", [None, LOWRANK], ids=["dense", "low_rank"])
@pytest.mark.parametrize(
    "settings", [{}, {"autocast_adapter_dtype": False}, None], ids=["fp32", "half", "transformers"]
)
def test_over_a_half_precision_base_adapters_are_fp32_unless_asked_otherwise(dtype, approx, settings):
    model = tiny("llama", dtype=dtype)
    if settings is None:
        model.add_adapter(config(approx=approx))
    else:
        model = get_peft_model(model, config(approx=approx), **settings)
    adapters = loda.trainable_parameters(model)
    assert {p.dtype for p in adapters.values()} == {dtype if settings else torch.float32}
    before = model(TOKENS, labels=TOKENS)
    assert before.logits.dtype == dtype
    optimizer = torch.optim.AdamW(adapters.values(), lr=0.01, eps=1e-8 if not settings else 1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    assert model(TOKENS, labels=TOKENS).loss < before.loss


@pytest.mark.parametrize("approx", [None, LOWRANK], ids=["dense", "low_rank"])
def test_transformers_adds_saves_and_loads_it_by_itself(approx, tmp_path):
    model = tiny("llama")
    model.add_adapter(config(approx=approx), adapter_name="mine")
    expected = logits(perturb(model))
    assert not torch.equal(expected, logits(tiny("llama")))
    model.save_pretrained(tmp_path)
    loaded = tiny("llama")
    loaded.load_adapter(str(tmp_path), adapter_name="yours")
    assert torch.equal(logits(loaded), expected)
    loaded.disable_adapters()
    assert torch.equal(logits(loaded), logits(get_peft_model(tiny("llama"), config(approx=approx))))
    loaded.enable_adapters()
    assert torch.equal(logits(loaded), expected)
    loaded.delete_adapter("yours")
    assert torch.equal(logits(loaded), logits(tiny("llama")))


@pytest.mark.parametrize("kind", ["gpt2", "phi3"])
def test_it_generates_with_beams_and_a_cache(kind):
    assert_a_cache_changes_nothing(adapted(kind), beams=3)


class Rows(Dataset):  # type: ignore[type-arg]
    """TOKENS as a data set of a causal language model."""

    def __len__(self) -> int:
        return len(TOKENS)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": TOKENS[index], "labels": TOKENS[index]}


# What TRL's SFTTrainer does on top of Trainer: activations computed again, several rows to a step.
SFT = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
}


@pytest.mark.parametrize(
    ("kind", "settings", "more"),
    [("gpt2", {"dropout": 0.1}, {}), ("gpt2", {"approx": LOWRANK}, SFT), ("llama", {"approx": LOWRANK}, SFT)],
    ids=["gpt2", "gpt2 sft", "llama sft"],
)
def test_the_trainer_trains_the_adapters_alone_and_its_checkpoint_loads(kind, settings, more, tmp_path):
    model = get_peft_model(tiny(kind), config(**settings))
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "save_steps": 6}
    arguments = TrainingArguments(str(tmp_path), max_steps=6, learning_rate=0.05, **quiet, **more)
    trained, before = set(loda.trainable_parameters(model)), state(model)
    trainer = Trainer(model, arguments, train_dataset=Rows())
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.1
    assert {name for name, (value, _) in state(model).items() if not torch.equal(value, before[name][0])} == trained
    loaded = PeftModel.from_pretrained(tiny(kind), tmp_path / "checkpoint-6")
    assert torch.equal(logits(loaded.eval()), logits(model.eval()))


def test_modules_to_save_train_and_travel_with_the_adapter(tmp_path):
    model = adapted("llama", modules_to_save=["lm_head"])
    assert any("lm_head" in name for name in loda.trainable_parameters(model))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny("llama"), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(model.unload()), logits(loaded))


@pytest.mark.parametrize("layers", [None, 1, [1]], ids=str)
def test_only_the_language_model_of_a_multimodal_model_is_adapted(layers):
    model = get_peft_model(tiny("gemma3"), config(layers_to_transform=layers))
    numbers = {"0", "1"} if layers is None else {"1"}
    expected = {f"model.language_model.layers.{n}.self_attn.{name}_proj" for n in numbers for name in "qv"}
    assert set(model.targeted_module_names) == expected


def test_other_modules_are_adapted_as_a_whole():
    model = get_peft_model(tiny("gpt2"), config(target_modules=["c_attn", "c_fc"], layers_to_transform=[1]))
    found = {
        name.partition("transformer.")[2]: set(m.adapters("default"))
        for name, m in model.named_modules()
        if isinstance(m, loda.peft.LodaLinear)
    }
    assert found == {"h.1.attn.c_attn": {"q", "v"}, "h.1.mlp.c_fc": {"all"}}


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"variant": "dora"}, "variant='dora' is not one of"),
        ({"variant": "prefix"}, "variant='prefix' is not one of"),
        ({"r": 0}, r"adapter\.r=0: input should be greater than or equal to 1 \(the paper uses r=4\)"),
        ({"slices": ("q", "o")}, "slices=.*: 'o' is not one of q, k, v, all"),
        ({"f1": {"orders": "norm"}}, "adapter.f1.orders is not a setting"),
        ({"approx": {"name": "low_rank", "rank": 0}}, r"approx\.rank=0: input should be greater"),
        ({"joint": True}, "joint=True needs an approximation"),
        ({"rank_pattern": {"c_attn": 0}}, r"rank_pattern\.c_attn=0: input should be greater than or equal to 1"),
        ({"rank_pattern": {"c_attn": 1}}, "r=1 with f1.order"),
        ({"rank_pattern": ["c_attn"]}, "rank_pattern=.*: input should be an object"),
        ({"alpha_pattern": {"c_attn": -1}}, r"alpha_pattern\.c_attn=-1: input should be greater"),
        ({"use_rslora": "no"}, "use_rslora='no': input should be a valid boolean"),
        ({"lora_alpha": 16}, "lora_alpha is not a setting; write alpha"),
        ({"lora_dropout": 0.1}, "lora_dropout is not a setting; write dropout"),
        ({"init_lora_weights": False}, "init_lora_weights is not a setting; write init_weights"),
        ({"target_parameters": ["experts.gate"]}, "target_parameters is not a setting; LoDA adapts linear modules"),
        ({"use_dora": True}, "use_dora is not a setting; there are .*, variant, r, alpha"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_when_they_are_made(settings, rule):
    with pytest.raises(LodaError, match=rule):
        config(**settings)


def test_patterns_and_rslora_give_each_module_its_rank_and_scale(tmp_path):
    settings = {"rank_pattern": {"q_proj": 8, r"layers\.1\.self_attn\.v_proj": 2}, "alpha_pattern": {"v_proj": 3.0}}
    model = adapted("llama", **settings, use_rslora=True)
    layers = [m for m in model.modules() if isinstance(m, loda.peft.LodaLinear)]
    adapters = [adapter for layer in layers for adapter in layer.adapters("default").values()]
    assert [adapter.A.shape[1] for adapter in adapters] == [8, 4, 8, 2]
    assert [adapter.scale for adapter in adapters] == pytest.approx([32 / 8**0.5, 3 / 4**0.5, 32 / 8**0.5, 3 / 2**0.5])
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny("llama"), tmp_path)), logits(model))


def test_without_init_weights_the_adapter_is_not_the_zero_map():
    for starts_at_zero in (True, False):
        model = get_peft_model(tiny("gpt2"), config(init_weights=starts_at_zero))
        assert torch.equal(logits(model), logits(tiny("gpt2"))) == starts_at_zero


def test_a_saved_setting_that_is_unknown_is_refused(tmp_path):
    adapted().save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    with pytest.raises(LodaError, match="use_dora is not a setting"):
        PeftModel.from_pretrained(tiny("gpt2"), tmp_path)


@pytest.mark.parametrize("version", ["0.20.0", "0.22.0"])
def test_another_peft_is_refused_in_one_sentence(version, monkeypatch):
    monkeypatch.setattr("loda.peft.version", lambda package: version)
    with pytest.raises(LodaError, match=rf"works with peft 0\.21\.\*, not {version}"):
        loda.peft._check_version()
