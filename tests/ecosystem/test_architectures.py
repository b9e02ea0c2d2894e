"""Every supported architecture: only the named slices change, and everything else works as on GPT-2."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, FalconConfig, FalconForCausalLM, PreTrainedModel

import loda
from eval.decode.beam import beam_search
from loda.adapters import FineTune, FineTuneTop2, Houlsby, Lin, LoDA, LoDAPlus, LoRA, Prefix
from loda.approx import Dense, LowRank, Sparse
from loda.architectures import ARCHITECTURES, AttentionLayout
from loda.errors import LodaError
from loda.lab.base.model import Base
from loda.lab.config import ModelConfig, compose
from loda.lab.training.examples import Example, collate
from loda.lab.training.loss import target_loss
from loda.lab.training.packing import PACKABLE, pack, packed, uses_packing
from loda.model import projections
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
SPLIT = [kind for kind in SETTINGS if len(ARCHITECTURES[kind].projections) == 3]


def adapted(kind: str, config: loda.LodaConfig) -> nn.Module:
    return perturb(loda.inject(tiny(kind), config))


def test_every_row_of_the_table_is_tested():
    assert set(SETTINGS) == set(ARCHITECTURES)


@pytest.mark.parametrize("kind", ["gpt_neo", "phi3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_the_windows_of_these_models_hide_something(kind):
    name = "window_size" if kind == "gpt_neo" else "sliding_window"
    assert not torch.allclose(logits(tiny(kind)), logits(tiny(kind, **{name: TOKENS.shape[1]})), atol=1e-3)


@every_architecture
def test_only_the_named_slices_change(kind):
    # q and v, the default, are in the table of what is supported.
    assert changed_parts(kind, adapted(kind, loda.LodaConfig(LoDAPlus(), slices=("k",)))) == [{"k"}] * 2


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


@every_architecture
@pytest.mark.parametrize("adapter", [LoDAPlus(), Houlsby(r=4), Lin(r=4), FineTune(), FineTuneTop2()], ids=repr)
def test_gradients_reach_every_adapter_parameter_and_no_other(kind, adapter):
    assert_gradients_reach_what_trains(adapted(kind, loda.LodaConfig(adapter)))


@pytest.mark.parametrize("kind", [kind for kind in SETTINGS if kind != "gpt2"])
def test_a_prefix_is_refused_outside_gpt2(kind):
    model = tiny(kind)
    with untouched(model), pytest.raises(LodaError, match="positions of GPT-2"):
        loda.inject(model, loda.LodaConfig(Prefix()))


# Approximations: separately by default, together when asked.


@pytest.mark.parametrize("kind", SPLIT)
@pytest.mark.parametrize("approx", [LowRank(rank=8), Sparse(keep=0.4)], ids=repr)
def test_joint_approximates_the_concatenation_and_the_default_each_part(kind, approx):
    # The oracle is the approximation of the matrix itself; rows of an nn.Linear's weight are columns here.
    names = ARCHITECTURES[kind].projections
    alone, together = (
        projections(loda.inject(tiny(kind), loda.LodaConfig(LoRA(), approx, joint=joint))) for joint in (False, True)
    )
    base = tiny(kind)
    for block in range(2):
        keys = [name for name in alone if f".{block}." in name]
        assert [key.endswith(name) for key, name in zip(sorted(keys), sorted(names), strict=True)] == [True] * 3
        ordered = [next(key for key in keys if key.endswith(name)) for name in names]
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


# An architecture that is not in the table.


FALCONS = {
    "side by side, one head of keys": ({"multi_query": True}, False),
    "head by head": ({"multi_query": False}, True),
    "group by group": ({"new_decoder_architecture": True, "num_kv_heads": 2}, True),
}


def falcon(**settings: object) -> FalconForCausalLM:
    sizes = {"vocab_size": 64, "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    return FalconForCausalLM(FalconConfig(**sizes, **settings)).eval()


def three_lines(error: object) -> str:
    """The program at the end of an error about an unknown architecture."""
    lines = [line.strip() for line in str(error).splitlines()[1:]]
    assert len(lines) == 3
    return "\n".join(lines)


@pytest.mark.parametrize(("settings", "by_head"), FALCONS.values(), ids=list(FALCONS))
def test_an_unknown_architecture_is_refused_with_its_modules_and_the_lines_that_add_it(settings, by_head, monkeypatch):
    monkeypatch.setattr("loda.architectures.ARCHITECTURES", dict(ARCHITECTURES))
    model = falcon(**settings)
    with pytest.raises(LodaError, match=r"'falcon' is not supported; known are gpt2") as error:
        loda.inject(model, loda.LodaConfig(LoRA()))
    assert "transformer.h.*.self_attention.query_key_value" in str(error.value)
    # The lines work as they stand, but for what only a reader of the model's code knows: the order of its columns.
    exec(three_lines(error.value).replace("by_head=False", f"by_head={by_head}"))
    perturb(loda.inject(model, loda.LodaConfig(LoDAPlus())))
    x = torch.randn(2, 5, D)
    for block, base in zip(model.transformer.h, falcon(**settings).transformer.h, strict=True):
        # Falcon's own rule for what is q, k and v.
        cut = [one.self_attention._split_heads(one.self_attention.query_key_value(x)) for one in (base, block)]
        assert [torch.equal(*pair) for pair in zip(*cut, strict=True)] == [False, True, False]


def test_a_row_that_does_not_fit_the_columns_is_refused(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "falcon", AttentionLayout(("self_attention.query_key_value",)))
    model = falcon(multi_query=True)
    model.config.num_attention_heads = 5
    with pytest.raises(LodaError, match="48 columns, which are not 5 heads of queries of width 6"):
        loda.inject(model, loda.LodaConfig(LoRA()))
    with pytest.raises(LodaError, match="must name one module that computes q, k and v, or three"):
        AttentionLayout(("q", "kv"))


def test_slices_of_a_module_that_nobody_knows_are_refused(monkeypatch):
    # Adapting the module as a whole would adapt k as well (peft#852).
    model = falcon()
    for targets in (("query_key_value",), ("dense", "query_key_value")):
        with (
            untouched(model),
            pytest.raises(LodaError, match=r"slices=\('q', 'v'\) of .*query_key_value: .*slices=\('all',\)"),
        ):
            loda.inject(model, loda.LodaConfig(LoRA(), targets=targets))
    wrapped = nn.Sequential(tiny("gpt2"))
    with pytest.raises(LodaError, match="'Sequential' is not supported") as error:
        loda.inject(wrapped, loda.LodaConfig(LoRA(), targets=("c_attn",)))
    assert "('attn.c_attn',)" in three_lines(error.value)
    monkeypatch.setitem(ARCHITECTURES, "Sequential", AttentionLayout(("attn.c_attn",)))
    with pytest.raises(LodaError, match="Sequential has no config"):
        loda.inject(wrapped, loda.LodaConfig(LoRA()))


def test_an_unknown_architecture_is_adapted_by_the_names_of_its_modules():
    before = logits(falcon())
    config = loda.LodaConfig(LoDAPlus(), targets=("self_attention.dense", "query_key_value"), slices=("all",))
    model = loda.inject(falcon(), config)
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
    shape = Base(ModelConfig("tiny", path=str(tmp_path)), tmp_path).shape
    model = AutoModelForCausalLM.from_config(shape).train()
    assert torch.equal(model(TOKENS).logits, model.eval()(TOKENS).logits)


@every_architecture
def test_the_loss_is_that_of_the_model_itself(kind):
    # Gemma 2 caps its logits outside of its head.
    model = tiny(kind, **({"final_logit_softcapping": 1.0} if kind == "gemma2" else {}))
    batch = collate([Example(TOKENS[0].tolist(), 4), Example(TOKENS[1, :7].tolist(), 2)])
    labels = batch.inputs.clone()
    labels[:, 1:][~batch.mask[:, :-1]] = -100
    labels[:, 0] = -100
    expected = model(batch.inputs, attention_mask=torch.ones_like(labels), labels=labels).loss.item()
    assert target_loss(model, batch, label_smoothing=0.0).item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("kind", PACKABLE)
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
        *((kind, "lora", f"the losses of {kind} are not tested") for kind in SETTINGS if kind not in PACKABLE),
        *((kind, "lora", "the base attends to 15 tokens at most, fewer than dataset.max_length") for kind in WINDOWED),
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
    assert Base(experiment.model, tmp_path).check(experiment).base_macs_per_token == 2 * 3 * 32 * 32


@pytest.mark.parametrize("kind", ["gpt_neo", "opt", "bloom", "mistral", "gemma2"])
def test_the_batch_size_of_the_beam_search_changes_nothing(kind):
    # Left padding meets alibi, position offsets and sliding windows here.
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]
    rules = {"num_beams": 3, "max_new_tokens": 6, "length_penalty": 0.9, "no_repeat_ngram_size": 3}
    alone, together = (beam_search(tiny(kind), prompts, eos_token_ids=[0], batch_size=size, **rules) for size in (1, 3))
    assert [h.tokens for h in alone] == [h.tokens for h in together]


def test_figure_2_is_of_q_k_and_v_together_where_the_base_has_three_modules():
    model = tiny("llama")
    weights = projections_of_blocks(model)
    for block, found in zip(model.model.layers, weights, strict=True):
        modules = [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj]
        assert torch.equal(found, torch.cat([module.weight.T for module in modules], dim=1))
