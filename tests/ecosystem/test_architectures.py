"""Every supported architecture: only the named slices change, and everything else works as on GPT-2."""

import copy
import gc

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

import loda
from eval.decode import beam
from eval.decode.beam import Hypothesis, beam_search
from loda.adapters import FineTune, FineTuneTop2, Houlsby, Lin, LoDA, LoDAPlus, LoRA, NoAdapter, Prefix
from loda.approx import Dense, LowRank, Sparse
from loda.architectures import ARCHITECTURES, AttentionLayout, block_of, is_linear
from loda.attention import find_attention, find_blocks
from loda.errors import LodaError
from loda.lab.base.attention import PLAIN
from loda.lab.base.model import Base
from loda.lab.config import ModelConfig, compose
from loda.lab.training.examples import Example, collate
from loda.lab.training.loss import target_loss
from loda.lab.training.packing import pack, packed, uses_packing
from loda.projection import projections
from scripts.figure2 import projections_of_blocks
from tests.ecosystem.models import SETTINGS, D, changed_parts, tiny
from tests.library.models import (
    TOKENS,
    assert_a_cache_changes_nothing,
    assert_gradients_reach_what_trains,
    logits,
    perturb,
    same_state,
    state,
    untouched,
    weight_of,
)

every_architecture = pytest.mark.parametrize("kind", SETTINGS)
WINDOWED = ["mistral", "phi3", "qwen2", "qwen3", "gemma3_text"]
SPLIT = ["gpt_neo", "opt", "llama", "qwen3_next", "gemma3", "xglm"]


def adapted(kind: str, config: loda.LodaConfig) -> nn.Module:
    return perturb(loda.inject(tiny(kind), config))


def test_every_row_is_tested():
    assert set(ARCHITECTURES) <= set(SETTINGS)


@pytest.mark.parametrize("kind", ["gpt_neo", "phi3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_the_windows_of_these_models_hide_something(kind):
    name = "window_size" if kind == "gpt_neo" else "sliding_window"
    assert not torch.allclose(logits(tiny(kind)), logits(tiny(kind, **{name: TOKENS.shape[1]})), atol=1e-3)


@every_architecture
def test_only_the_named_slices_change(kind):
    # q and v, the default, are in the table of what is supported.
    changed = changed_parts(tiny(kind), adapted(kind, loda.LodaConfig(LoDAPlus(), slices=("k",))))
    assert set(map(frozenset, changed)) == {frozenset("k")}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("falcon", {"new_decoder_architecture": False, "multi_query": True}),
        ("falcon", {"new_decoder_architecture": False, "multi_query": False, "num_kv_heads": 4, "alibi": True}),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 4}),
        ("gpt_bigcode", {"multi_query": False}),
        ("gpt_neox", {"rotary_pct": 0.5}),
        ("phi", {"qk_layernorm": True}),
        ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True}),
        ("cohere2", {"num_key_value_heads": 1}),
    ],
    ids=str,
)
@pytest.mark.parametrize("slices", [("q",), ("k",), ("v",), ("q", "v")], ids="".join)
def test_only_the_named_slices_change_whatever_the_configuration(kind, settings, slices):
    model = perturb(loda.inject(tiny(kind, **settings), loda.LodaConfig(LoDAPlus(), slices=slices)))
    assert changed_parts(tiny(kind, **settings), model) == [set(slices)] * 2


@pytest.mark.parametrize(("slices", "changed"), [(("q",), [True, False]), (("gate",), [False, True])], ids=str)
def test_queries_and_their_gate_are_two_slices(slices, changed):
    x, own = torch.randn(2, 5, D), []
    for model in (tiny("qwen3_5_text"), adapted("qwen3_5_text", loda.LodaConfig(LoDAPlus(), slices=slices))):
        # Qwen3NextAttention: torch.chunk(q_proj(x).view(*x.shape[:-1], -1, 2 * head_dim), 2, dim=-1)
        own.append(model.model.layers[1].self_attn.q_proj(x).view(2, 5, 4, 32).chunk(2, dim=-1))
    assert [not torch.equal(*pair) for pair in zip(*own, strict=True)] == changed


def test_only_the_language_model_of_a_multimodal_model_is_adapted():
    model = loda.inject(tiny("gemma3"), loda.LodaConfig(LoRA()))
    assert all(name.startswith("model.language_model.") for name in projections(model))
    assert any(name.endswith("q_proj") and "vision_tower" in name for name, _ in model.named_modules())


def test_cross_attention_is_not_adapted():
    model = loda.inject(tiny("xglm", add_cross_attention=True), loda.LodaConfig(LoRA()))
    assert {name.split(".")[-2] for name in projections(model)} == {"self_attn"}
    assert any(name.endswith("encoder_attn.q_proj") for name, _ in model.named_modules())


def test_the_blocks_of_a_hybrid_model_without_attention_are_blocks_too():
    blocks = find_blocks(tiny("qwen3_next"))
    assert [type(module).__name__ for block in blocks for module in block.outputs[:1]] == [
        "Qwen3NextGatedDeltaNet",
        "Qwen3NextAttention",
    ]


@pytest.mark.parametrize("kind", [kind for kind in SETTINGS if kind != "olmo2"])  # whose norms follow
def test_the_outputs_of_a_block_are_what_its_sublayers_add_to_the_residual_stream(kind):
    # Norms precede the sub-layers, so a larger stream does not make what is added to it larger.
    model, found = tiny(kind), []
    block = find_blocks(model)[0]
    for output in block.outputs:
        output.register_forward_hook(lambda *a: found.append(a[-1][0] if isinstance(a[-1], tuple) else a[-1]))
    for factor in (1, 1000):
        block.module.register_forward_pre_hook(lambda module, args, factor=factor: (args[0] * factor, *args[1:]))
        logits(model)
    assert len(found) == 4
    assert all(after.norm() < 100 * before.norm() for before, after in zip(found[:2], found[2:], strict=True))


@every_architecture
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_adapted_model_unloads_to_the_base_bit_for_bit(kind, dtype):
    model = tiny(kind, dtype=dtype)
    before, outputs = state(model), logits(model)
    kinds = [type(module) for module in model.modules()]
    perturb(loda.inject(model, loda.LodaConfig(LoDA())))
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}
    assert not torch.equal(logits(model), outputs)
    loda.unload(model)
    assert [type(module) for module in model.modules()] == kinds
    assert same_state(state(model), before)
    assert torch.equal(logits(model), outputs)


@every_architecture
def test_generating_with_a_cache_gives_what_generating_without_one_gives(kind):
    assert_a_cache_changes_nothing(adapted(kind, loda.LodaConfig(LoDAPlus(), LowRank(rank=8))), beams=2)


@pytest.mark.parametrize(
    "kind", ["gpt2", "gpt_neo", "opt", "bloom", "phi3", "llama", "mixtral", "qwen3_next", "falcon"]
)
@pytest.mark.parametrize("adapter", [LoDAPlus(), Houlsby(r=4), Lin(r=4), FineTune(), FineTuneTop2()], ids=repr)
def test_gradients_reach_every_adapter_parameter_and_no_other(kind, adapter):
    assert_gradients_reach_what_trains(adapted(kind, loda.LodaConfig(adapter)))


def test_a_prefix_is_refused_outside_gpt2():
    model = tiny("llama")
    with untouched(model), pytest.raises(LodaError, match="positions of GPT-2"):
        loda.inject(model, loda.LodaConfig(Prefix()))


# Approximations: separately by default, together when asked.


@pytest.mark.parametrize("kind", SPLIT)
@pytest.mark.parametrize("approx", [LowRank(rank=8), Sparse(keep=0.4)], ids=repr)
def test_joint_approximates_the_concatenation_and_the_default_each_part(kind, approx):
    # The oracle is the approximation of the matrix itself; rows of an nn.Linear's weight are columns here.
    alone, together = (
        projections(loda.inject(tiny(kind), loda.LodaConfig(LoRA(), approx, joint=joint))) for joint in (False, True)
    )
    base = tiny(kind)
    for attention in {name.rpartition(".")[0] for name in alone}:
        ordered = [f"{attention}.{name}_proj" for name in "qkv"]
        weights = [base.get_submodule(key).weight.T for key in ordered]
        for key, weight in zip(ordered, weights, strict=True):
            assert torch.equal(weight_of(alone[key].base), weight_of(approx.approximate(weight, None)))
        whole = weight_of(approx.approximate(torch.cat(weights, dim=1), None))
        found = torch.cat([weight_of(together[key].base) for key in ordered], dim=1)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("with_approximation", [False, True])
def test_a_joint_approximation_is_saved_and_loaded(with_approximation, tmp_path):
    model = adapted("llama", loda.LodaConfig(LoDAPlus(), LowRank(rank=8), joint=True))
    loda.save_pretrained(model, tmp_path, with_approximation=with_approximation)
    assert torch.equal(logits(loda.from_pretrained(tiny("llama"), tmp_path)), logits(model))


def test_modules_that_read_the_same_input_share_its_product_with_one_factor():
    # The counter sees what runs: W_A once for q, k, v and once for gate and up.
    config = loda.LodaConfig(NoAdapter(), LowRank(rank=4), targets="all", joint=True)
    base, model = tiny("llama"), loda.inject(tiny("llama"), config)
    head = model.lm_head.weight.numel()
    with FlopCounterMode(display=False) as dense:
        logits(base)
    with FlopCounterMode(display=False) as factors:
        logits(model)
    attention = dense.get_total_flops() // 2 - TOKENS.numel() * loda.cost(model).base_model_macs_per_token
    assert factors.get_total_flops() // 2 == TOKENS.numel() * loda.cost(model).model_macs_per_token + attention
    widths = {name.rpartition(".")[2]: projection for name, projection in projections(model).items() if ".0." in name}
    d, hidden = widths["gate_proj"].d_in, widths["gate_proj"].d_out
    assert sum(widths[name].macs() for name in ("gate_proj", "up_proj")) == 4 * (d + 2 * hidden)
    assert head < loda.cost(model).model_macs_per_token < loda.cost(model).base_model_macs_per_token
    for name in ("q_proj", "k_proj", "v_proj"):
        assert widths[name].base.W_A is widths["q_proj"].base.W_A
    separate = tiny("llama")
    for name, projection in projections(model).items():
        separate.get_submodule(name).weight.data = weight_of(projection.base).T
    torch.testing.assert_close(logits(model), logits(separate), rtol=1e-4, atol=1e-5)


def test_a_shared_product_follows_its_input():
    config = loda.LodaConfig(NoAdapter(), LowRank(rank=4), joint=True)
    q, k, _ = list(projections(loda.inject(tiny("llama"), config)).values())[:3]
    x = torch.randn(3, q.d_in)
    first = q(x), k(x)
    x.mul_(2)  # in place: the same object with other values
    torch.testing.assert_close(k(x), 2 * first[1])
    torch.testing.assert_close(q(x), 2 * first[0])
    with torch.inference_mode():
        torch.testing.assert_close(k(x.clone()), 2 * first[1])
    with torch.no_grad():
        q(x)
    assert k(x.requires_grad_()).requires_grad  # not the product that was computed without gradients
    copied = copy.deepcopy(q)
    assert torch.equal(copied(x), q(x))
    x = 2 * torch.randn(3, q.d_in, requires_grad=True)
    q(x).sum().backward()
    del x
    gc.collect()
    assert q.base.product._kept is None


@pytest.mark.parametrize("kind", ["llama", "olmo2"])
def test_a_shared_product_is_computed_again_by_gradient_checkpointing(kind):
    # OLMo 2 reads the block's input itself, which is the same object when the block runs again.
    model = tiny(kind)
    loda.inject(model, loda.LodaConfig(LoRA(r=2), LowRank(rank=4), joint=True))
    perturb(model).train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        found.append({name: p.grad.clone() for name, p in loda.trainable_parameters(model).items()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_a_stored_approximation_whose_parts_disagree_is_refused():
    config = loda.LodaConfig(NoAdapter(), LowRank(rank=4), joint=True)
    given = loda.approximate(tiny("llama"), config)
    name = next(key for key in given if key.endswith("k_proj.W_A"))
    with pytest.raises(LodaError, match=r"has different .*q_proj.W_A and .*k_proj.W_A, which are one"):
        loda.inject(tiny("llama"), config, given | {name: 2 * given[name]})


def test_joint_changes_nothing_where_the_projection_is_fused():
    first, second = (
        logits(loda.inject(tiny("phi3"), loda.LodaConfig(LoRA(), Sparse(), joint=joint))) for joint in (False, True)
    )
    assert torch.equal(first, second)


# Other modules, by name.


@pytest.mark.parametrize(
    ("kind", "targets", "expected"),
    [
        ("gpt2", ("c_fc", "mlp.c_proj"), {"mlp.c_fc": {"all"}, "mlp.c_proj": {"all"}}),
        ("gpt2", ("c_attn", "c_fc"), {"attn.c_attn": {"q", "v"}, "mlp.c_fc": {"all"}}),
        ("llama", ("v_proj", "o_proj"), {"self_attn.v_proj": {"v"}, "self_attn.o_proj": {"all"}}),
    ],
    ids=["feed-forward", "fused attention and more", "split attention and more"],
)
def test_other_linear_modules_are_adapted_by_name(kind, targets, expected, tmp_path):
    model = adapted(kind, loda.LodaConfig(LoDAPlus(), targets=targets))
    found = {name.rpartition(".0.")[2]: set(p.adapters) for name, p in projections(model).items() if ".0." in name}
    assert found == expected
    loda.save_pretrained(model, tmp_path)
    assert torch.equal(logits(loda.from_pretrained(tiny(kind), tmp_path)), logits(model))


@every_architecture
def test_all_linear_modules_of_the_blocks_are_approximated_and_attention_is_adapted(kind):
    base = tiny(kind)
    config = loda.LodaConfig(LoDAPlus(), Sparse(keep=0.5), targets="all")
    model = loda.inject(tiny(kind), config)
    blocks = {block_of(name) for name in find_attention(base)}
    linear = {name for name, module in base.named_modules() if is_linear(module) and block_of(name) in blocks}
    found = projections(model)
    assert set(found) == linear
    assert {name for name, projection in found.items() if projection.adapters} == {
        name for name, slices in find_attention(base).items() if {"q", "v"} & set(slices)
    }
    assert torch.equal(logits(loda.unload(model)), logits(base))


def test_all_linear_modules_are_adapted_where_the_slices_say_so():
    config = loda.LodaConfig(LoRA(), targets="all", slices=("q", "v", "all"))
    found = projections(loda.inject(tiny("gpt2"), config)).items()
    assert {name.partition(".h.0.")[2]: set(p.adapters) for name, p in found if ".h.0." in name} == {
        "attn.c_attn": {"q", "v"}, "attn.c_proj": {"all"}, "mlp.c_fc": {"all"}, "mlp.c_proj": {"all"},
    }  # fmt: skip
    with pytest.raises(LodaError, match="targets=all leaves the modules outside attention as they are"):
        loda.LodaConfig(LoRA(), targets="all")


def test_a_target_that_its_slices_would_leave_bare_is_refused():
    for targets, approx in ((("q_proj", "k_proj"), Dense()), (("k_proj",), LowRank(rank=8))):
        with pytest.raises(LodaError, match="k_proj, which is k; slices=\\('q', 'v'\\) would leave it without"):
            loda.inject(tiny("llama"), loda.LodaConfig(LoRA(), approx, targets=targets))


def test_an_approximated_target_may_be_bare():
    settings = {"targets": ("q_proj", "k_proj", "v_proj")}
    named, found = (
        logits(loda.inject(tiny("llama"), loda.LodaConfig(LoRA(), LowRank(rank=8), **more))) for more in (settings, {})
    )
    assert torch.equal(named, found)


def test_a_target_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(LodaError, match=r"no linear module named \*\.c_fc .* model\.layers\.\*\.self_attn\.q_proj"):
        loda.inject(tiny("llama"), loda.LodaConfig(LoRA(), targets=("c_fc",)))


def chosen(base: nn.Module, **settings: object) -> set[str]:
    """The modules that `inject` adapts, where PEFT's LoRA adapts the same."""
    found = set(
        projections(loda.inject(copy.deepcopy(base), loda.LodaConfig(LoRA(), slices=("q", "k", "v"), **settings)))
    )
    settings["target_modules"] = settings.pop("targets", ("q_proj", "k_proj", "v_proj"))
    named = {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
    assert set(get_peft_model(base, LoraConfig(**named)).targeted_module_names) == found
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"targets": r".*\.1\..*(k|down)_proj"}, {"model.layers.1.self_attn.k_proj", "model.layers.1.mlp.down_proj"}),
        ({"targets": ("k_proj",), "layers_to_transform": 1}, {"model.layers.1.self_attn.k_proj"}),
        ({"layers_to_transform": (0,)}, {f"model.layers.0.self_attn.{name}_proj" for name in "qkv"}),
        ({"targets": ("k_proj",), "exclude_modules": ("0.self_attn.k_proj",)}, {"model.layers.1.self_attn.k_proj"}),
        (
            {"targets": ("up_proj", "k_proj"), "exclude_modules": r".*(0\.self_attn|1\.mlp).*"},
            {"model.layers.0.mlp.up_proj", "model.layers.1.self_attn.k_proj"},
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_modules_are_chosen_as_in_peft(settings, expected, tmp_path):
    assert chosen(tiny("llama"), **settings) == expected
    model = adapted("llama", loda.LodaConfig(LoRA(), slices=("q", "k", "v"), **settings))
    loda.save_pretrained(model, tmp_path)
    again = loda.from_pretrained(tiny("llama"), tmp_path)
    assert set(projections(again)) == expected
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (
            {"targets": "q_proj"},
            r"targets: no linear module named 'q_proj' \(a text is a pattern of the whole name\) was found",
        ),
        ({"targets": "("}, r"targets='\(' is no regular expression"),
        ({"targets": 5}, "targets=5 must be ends of names of modules"),
        ({"exclude_modules": ("c_fc",)}, r"exclude_modules: no linear module named \*\.c_fc was found"),
        ({"exclude_modules": ".*"}, r"exclude_modules=\.\* leaves no module to adapt"),
        ({"layers_to_transform": (1, 2)}, "layer 2 holds none of the modules to adapt, but 0, 1 do"),
        ({"layers_to_transform": "1"}, "layers_to_transform='1': input should be"),
        ({"targets": ".*q_proj", "layers_to_transform": 1}, "layers_to_transform cannot be used with a regular"),
    ],
    ids=str,
)
def test_a_choice_of_modules_that_chooses_nothing_is_refused(settings, rule):
    model = tiny("llama")
    with untouched(model), pytest.raises(LodaError, match=rule):
        loda.inject(model, loda.LodaConfig(LoRA(), **settings))


@pytest.mark.parametrize("targets", [("experts",), ("experts.gate_up_proj",), ("down_proj",), ".*experts.*"], ids=str)
def test_fused_experts_are_refused(targets):
    model = tiny("qwen3_moe")
    with untouched(model), pytest.raises(LodaError, match=r"proj, a parameter of shape \(4, .*\) and no linear module"):
        loda.inject(model, loda.LodaConfig(LoRA(), targets=targets))


# An architecture that is not known.


def causal(kind: str, **settings: object) -> PreTrainedModel:
    """A model of another architecture."""
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    common = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | common | settings)).eval()


def refusal(model: nn.Module) -> str:
    with untouched(model), pytest.raises(LodaError) as error:
        loda.inject(model, loda.LodaConfig(LoRA()))
    return str(error.value)


class Backwards(nn.Module):
    """An attention whose modules are in another order than q, k, v."""

    def __init__(self) -> None:
        super().__init__()
        self.value_lin, self.key_lin, self.query_lin = (nn.Linear(8, 8) for _ in range(3))


def test_the_advice_works_as_printed(monkeypatch):
    monkeypatch.setattr("loda.architectures.ARCHITECTURES", dict(ARCHITECTURES))
    for kind in ("bert", "roberta", "electra"):
        model, base = (causal(kind, intermediate_size=48, is_decoder=True, embedding_size=D) for _ in range(2))
        exec("\n".join(line.strip() for line in refusal(model).splitlines()[1:]))
        perturb(loda.inject(model, loda.LodaConfig(LoDAPlus())))
        assert changed_parts(base, model) == [{"q", "v"}] * 2
    layers = nn.ModuleList([nn.ModuleDict({"attn": Backwards()})])
    with pytest.raises(LodaError, match=r"qkv = \('attn\.query_lin', 'attn\.key_lin', 'attn\.value_lin'\)"):
        loda.inject(layers, loda.LodaConfig(LoRA()))


CODEGEN = {"n_embd": D, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}


@pytest.mark.parametrize(
    ("kind", "settings", "rule", "targets"),
    [
        ("codegen", CODEGEN, "only the model's code tells", "qkv_proj"),
        ("openai-gpt", {"n_embd": D, "n_layer": 2, "n_head": 4}, "only the model's code tells", "c_attn"),
        ("gpt_neox_japanese", {}, "only the model's code tells", "query_key_value"),
        ("deepseek_v3", {**LATENT, "num_key_value_heads": 4}, "come from one low-rank projection", "q_b_proj"),
        ("bart", {"is_encoder_decoder": True}, "is an encoder-decoder", "self_attn.out_proj"),
    ],
    ids=str,
)
def test_no_advice_guesses_what_only_the_code_tells(kind, settings, rule, targets):
    make = AutoModelForSeq2SeqLM if kind == "bart" else AutoModelForCausalLM
    config = AutoConfig.for_model(kind, **{"vocab_size": 64, "hidden_size": D, **settings})
    config.num_hidden_layers = 2
    model = make.from_config(config)
    with pytest.raises(LodaError, match=rule) as error:
        loda.inject(model, loda.LodaConfig(LoRA()))
    assert len(str(error.value).splitlines()) == 1
    assert "slices=('all',)" in str(error.value)
    loda.inject(model, loda.LodaConfig(LoRA(), targets=(targets,), slices=("all",)))
    assert {part for projection in projections(model).values() for part in projection.adapters} == {"all"}


def test_columns_that_are_more_than_queries_are_refused(monkeypatch):
    monkeypatch.delitem(ARCHITECTURES, "qwen3_5_text")
    assert "layers.1.self_attn.q_proj computes 128 columns, which are not 4 heads of queries of width 16" in refusal(
        tiny("qwen3_5_text")
    )
    model = tiny("phi3")
    model.config.num_attention_heads = 5
    with pytest.raises(LodaError, match=r"self_attn\.qkv_proj computes 64 columns, which are not 5 heads of queries"):
        loda.inject(model, loda.LodaConfig(LoRA()))
    with pytest.raises(LodaError, match="must name one module that computes q, k and v, or three"):
        AttentionLayout(("q", "kv"))


def test_keys_without_values_beside_them_are_refused():
    # Later layers of Gemma 4 share the keys and values of earlier ones.
    sizes = {"head_dim": 8, "global_head_dim": 8, "num_key_value_heads": 2, "intermediate_size": 48}
    model = causal("gemma4_text", **sizes, layer_types=["full_attention"] * 2, num_kv_shared_layers=1)
    assert "layers.1.self_attn.q_proj has no k_proj and v_proj of its own beside it" in refusal(model)


def test_slices_of_a_module_that_nobody_knows_are_refused():
    # Adapting the module as a whole would adapt k as well (peft#852).
    model = causal("codegen", **CODEGEN)
    for targets in (("qkv_proj",), ("fc_in", "qkv_proj"), ".*qkv_proj"):
        with (
            untouched(model),
            pytest.raises(LodaError, match=r"slices=\('q', 'v'\) of .*: .*slices=\('all',\)"),
        ):
            loda.inject(model, loda.LodaConfig(LoRA(), targets=targets))


def test_a_wrapper_changes_nothing():
    wrapped = loda.inject(nn.Sequential(tiny("gpt2")), loda.LodaConfig(LoRA()))
    assert {name.removeprefix("0.") for name in projections(wrapped)} == set(
        projections(loda.inject(tiny("gpt2"), loda.LodaConfig(LoRA())))
    )


def test_an_unknown_architecture_is_adapted_by_the_names_of_its_modules():
    before = logits(causal("codegen", **CODEGEN))
    config = loda.LodaConfig(LoDAPlus(), targets=("attn.out_proj", "qkv_proj"), slices=("all",))
    model = loda.inject(causal("codegen", **CODEGEN), config)
    assert torch.equal(logits(model), before)
    assert [set(projection.adapters) for projection in projections(model).values()] == [{"all"}] * 4


def test_one_slice_of_a_known_attention_cannot_be_its_whole():
    with pytest.raises(LodaError, match=r"c_attn, which is q, k, v; slices=\('all',\) would leave it without"):
        loda.inject(tiny("gpt2"), loda.LodaConfig(LoRA(), targets=("c_attn",), slices=("all",)))


# The harness: what training and decoding take for granted.


@every_architecture
def test_the_dropouts_of_a_base_are_switched_off(kind, tmp_path):
    config = tiny(kind).config
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.5)
    config.save_pretrained(tmp_path)
    shape = Base(ModelConfig("tiny", path=str(tmp_path)), tmp_path, "").shape
    model = AutoModelForCausalLM.from_config(shape).train()
    assert torch.equal(model(TOKENS).logits, model.eval()(TOKENS).logits)


@every_architecture
def test_the_loss_is_that_of_the_model_itself(kind):
    # These cap or scale their logits outside of their head.
    more = {"gemma2": {"final_logit_softcapping": 1.0}, "granite": {"logits_scaling": 3.0}}
    model = tiny(kind, **more.get(kind, {}))
    batch = collate([Example(TOKENS[0].tolist(), 4), Example(TOKENS[1, :7].tolist(), 2)])
    labels = batch.inputs.clone()
    labels[:, 1:][~batch.mask[:, :-1]] = -100
    labels[:, 0] = -100
    expected = model(batch.inputs, attention_mask=torch.ones_like(labels), labels=labels).loss.item()
    assert target_loss(model, batch, label_smoothing=0.0).item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("kind", PLAIN)
def test_packed_examples_have_the_losses_of_padded_ones(kind):
    model = tiny(kind, **wide(kind))
    assert packs(model, "auto")
    assert packs(model, "on")
    assert not packs(model, "off")
    generator = torch.Generator().manual_seed(0)
    examples = [Example(torch.randint(1, 64, (n,), generator=generator).tolist(), n // 2) for n in (9, 16, 6)]
    expected = target_loss(model, collate(examples), label_smoothing=0.1).item()
    with packed(model):
        found = target_loss(model, pack(examples), label_smoothing=0.1).item()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "adapter", "obstacle"),
    [
        ("bloom", "lora", "the attention of bloom is not tested"),
        *((kind, "lora", "the base attends to 15 tokens at most, fewer than 16") for kind in WINDOWED),
        ("gpt2", "prefix", "a prefix needs one cache for each example"),
    ],
)
def test_examples_are_not_packed_where_they_would_have_other_losses(kind, adapter, obstacle):
    model = tiny(kind, **({"sliding_window": 15} if kind in WINDOWED else {}))
    assert not packs(model, "auto", adapter)
    with pytest.raises(LodaError, match=f"trainer.packing=on is not possible: {obstacle}"):
        packs(model, "on", adapter)


def wide(kind: str) -> dict[str, int]:
    """A window that is as wide as the longest example."""
    return {"sliding_window": 16} if kind in WINDOWED else {}


def packs(model: PreTrainedModel, packing: str, adapter: str = "lora") -> bool:
    """Whether a training on examples of at most 16 tokens packs them."""
    short = ["dataset.max_length=16", "decode.max_new_tokens=8"]
    return uses_packing(
        compose(["dataset=toy", "model=toy", *short, f"adapter={adapter}", f"trainer.packing={packing}"]), model.config
    )


def test_embeddings_may_be_narrower_than_the_blocks(tmp_path):
    # OPT-350m is such a model.
    tiny("opt", word_embed_proj_dim=16).config.save_pretrained(tmp_path)
    overrides = ["dataset=toy", "model=local", f"model.path={tmp_path}", "dataset.max_length=16"]
    experiment = compose([*overrides, "decode.max_new_tokens=8"])
    assert Base(experiment.model, tmp_path, "").check(experiment).base_macs_per_token == 2 * 3 * 32 * 32


def search(model: PreTrainedModel, batch_size: int) -> list[Hypothesis]:
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]
    rules = {"num_beams": 3, "max_new_tokens": 6, "length_penalty": 0.9, "no_repeat_ngram_size": 3}
    return beam_search(model, prompts, eos_token_ids=[0], batch_size=batch_size, **rules)


@pytest.mark.parametrize("kind", ["gpt_neo", "opt", "bloom", "mistral", "gemma2"])
def test_the_batch_size_of_the_beam_search_changes_nothing(kind):
    # Left padding meets alibi, position offsets and sliding windows here.
    alone, together = (search(tiny(kind), size) for size in (1, 3))
    assert [h.tokens for h in alone] == [h.tokens for h in together]


@pytest.mark.parametrize(("kind", "adapter"), [*((kind, "lora") for kind in PLAIN), ("gpt2", "prefix")])
def test_prompts_that_beams_share_are_attended_to_as_their_own(kind, adapter, monkeypatch):
    config = loda.LodaConfig({"lora": LoRA(), "prefix": Prefix(length=2)}[adapter])
    model = perturb(loda.inject(tiny(kind, **wide(kind)), config))
    replaced = []
    replace = beam.shared_prompts
    monkeypatch.setattr(beam, "shared_prompts", lambda model: replaced.append(model) or replace(model))
    shared = search(model, 3)
    monkeypatch.setattr(beam, "addition_to_attention", lambda shape, length: "not here")
    apart = search(model, 3)
    assert replaced == [model]  # the first search, not the second
    assert [one.tokens for one in shared] == [one.tokens for one in apart]
    assert [one.score for one in shared] == pytest.approx([one.score for one in apart], rel=1e-5)


def test_figure_2_is_of_q_k_and_v_together_where_the_base_has_three_modules():
    model = tiny("llama")
    weights = projections_of_blocks(model)
    for block, found in zip(model.model.layers, weights, strict=True):
        modules = [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj]
        assert torch.equal(found, torch.cat([module.weight.T for module in modules], dim=1))
