"""loda.inject at its edges: models that look at a weight or multiply by it, other heads, layouts, wrappers."""

import copy
import io

import pytest
import torch
from accelerate import Accelerator, cpu_offload, disk_offload, dispatch_model
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.pytorch_utils import Conv1D

import loda
import loda.peft
from loda.adapters import FineTune, FullRank, LoDAPlus, LoRA
from loda.approx import LowRank
from loda.errors import LodaError
from loda.projection import projections
from tests.ecosystem.models import tiny
from tests.library.models import (
    ADAPTERS,
    APPROXIMATIONS,
    TOKENS,
    VOCABULARY,
    give_values,
    logits,
    perturb,
    same_state,
    state,
    tiny_gpt2,
    train,
    untouched,
)

SMALL = {"dense": APPROXIMATIONS["dense"], "low_rank": LowRank(rank=8), "sparse": APPROXIMATIONS["sparse"]}


def whole(*targets: str, adapter=None, approx=SMALL["dense"]) -> loda.LodaConfig:
    return loda.LodaConfig(adapter or LoRA(), approx, targets=targets, slices=("all",))


# Half precision


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [(kind, FineTune()) for kind in ("gpt2", "llama", "bloom", "falcon", "qwen3_next")] + [("gpt2", LoDAPlus())],
    ids=lambda value: getattr(value, "name", value),
)
def test_adam_trains_over_fp16_in_every_layout(kind, adapter):
    model, base = tiny(kind, dtype=torch.float16), logits(tiny(kind, dtype=torch.float16))
    loda.inject(model, loda.LodaConfig(adapter))
    start = logits(model)
    assert torch.equal(start, base) or adapter == FineTune()  # which computes in fp32 now, and rounds less
    torch.testing.assert_close(start, base, rtol=0.01, atol=0.01 * base.abs().max().item())
    train(model)
    assert logits(model).isfinite().all()
    assert not torch.equal(logits(model), start)
    assert torch.equal(logits(loda.unload(model)), base)


# The face of a linear module


def tiny_t5(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(**sizes, **tokens, dropout_rate=0.0)).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("approx", SMALL.values(), ids=SMALL)
def test_t5_looks_at_the_dtype_of_its_weights(approx, dtype):
    model = loda.inject(tiny_t5(dtype), whole("q", "v", "wi", "wo", adapter=LoDAPlus(), approx=approx))
    train(model)
    assert model(input_ids=TOKENS, labels=TOKENS).loss.isfinite()
    assert model.generate(TOKENS, max_new_tokens=3, num_beams=2).shape[0] == 2


@pytest.mark.parametrize("approx", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gptj", "opt"])
def test_an_adapted_projection_shows_the_weight_in_the_layout_of_the_module_that_it_replaced(kind, approx):
    model, base = loda.inject(tiny(kind), loda.LodaConfig(LoRA(), approx)), tiny(kind)
    for name, projection in projections(model).items():
        module = base.get_submodule(name)
        x = torch.eye(projection.in_features)
        assert projection.weight.shape == module.weight.shape
        assert approx.name != "dense" or torch.equal(projection.weight, module.weight)
        assert (projection.bias is None) == (module.bias is None)
        assert projection.out_features == projection(x).shape[-1]
        module.weight = nn.Parameter(projection.weight)
        torch.testing.assert_close(projection(x), module(x))


def test_a_layer_of_loda_peft_shows_them_too():
    model, base = get_peft_model(tiny("gpt2"), loda.peft.LodaConfig()), tiny("gpt2")
    for block, plain in zip(model.base_model.model.transformer.h, base.transformer.h, strict=True):
        layer = block.attn.c_attn
        assert (layer.in_features, layer.out_features) == (32, 96)
        assert torch.equal(layer.weight, plain.attn.c_attn.weight)
        assert torch.equal(layer.bias, plain.attn.c_attn.bias)


# Where the model multiplies by the weight itself, no adapter would be called


def tiny_mamba(kind: str) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": VOCABULARY}
    sizes |= {"num_heads": 4, "head_dim": 8, "n_groups": 1} if kind == "mamba2" else {}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2)


def tiny_wavlm() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": [4], "conv_stride": [2], "conv_kernel": [2], "num_conv_pos_embedding_groups": 2}
    return AutoModel.from_config(AutoConfig.for_model("wavlm", **sizes, **convolutions))


DEAD = {
    "mamba dt_proj": (lambda: tiny_mamba("mamba"), "dt_proj"),
    "mamba x_proj": (lambda: tiny_mamba("mamba"), "x_proj"),
    "mamba out_proj": (lambda: tiny_mamba("mamba"), "out_proj"),
    "mamba2 out_proj": (lambda: tiny_mamba("mamba2"), "out_proj"),
    "falcon_mamba dt_proj": (lambda: tiny_mamba("falcon_mamba"), "dt_proj"),
    "wavlm q_proj": (tiny_wavlm, "q_proj"),
    "MultiheadAttention": (Attends, "out_proj"),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 16), 1), "linear1"),
    "attention in it": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 16), 1), "out_proj"),
}


@pytest.mark.parametrize("case", DEAD)
def test_an_adapter_that_would_be_dead_is_refused_at_both_doors(case):
    make, name = DEAD[case]
    model = make()
    modules = list(model.modules())
    rule = rf"multiplies by the weight of .*{name} itself .* leave it out of the targets"
    with pytest.raises(LodaError, match=rule):
        loda.inject(model, whole(name))
    assert list(model.modules()) == modules
    with pytest.raises(LodaError, match=rule):
        get_peft_model(model, loda.peft.LodaConfig(variant="lora", target_modules=[name], slices=("all",)))


@pytest.mark.parametrize(
    ("make", "targets"),
    [(lambda: tiny_mamba("mamba"), ("in_proj",)), (lambda: tiny("bloom"), ("dense", "dense_4h_to_h"))],
    ids=["mamba", "bloom"],
)
def test_an_adapter_that_is_called_is_not_refused(make, targets):
    model = perturb(loda.inject(make(), whole(*targets)))
    model(TOKENS, labels=TOKENS).loss.backward()
    assert all(parameter.grad.any() for parameter in loda.trainable_parameters(model).values())


def test_bloom_is_refused_where_its_configuration_makes_it_multiply_by_slices():
    model = tiny("bloom", slow_but_exact=True, pretraining_tp=2)
    with untouched(model), pytest.raises(LodaError, match="BloomMLP multiplies by the weight of"):
        loda.inject(model, whole("dense_4h_to_h"))


# Heads and other modules that are trained whole

HEADS = {
    "llama classification": (AutoModelForSequenceClassification, "llama", "score"),
    "gpt2 classification": (AutoModelForSequenceClassification, "gpt2", "score"),
    "gpt2 token classification": (AutoModelForTokenClassification, "gpt2", "classifier"),
    "llama question answering": (AutoModelForQuestionAnswering, "llama", "qa_outputs"),
}


def with_head(case: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A model on the body of `tiny`, with a head that is random anew for each seed."""
    automatic, kind, _ = HEADS[case]
    body = tiny(kind, dtype=dtype)
    body.config.pad_token_id = 0
    torch.manual_seed(seed)
    model = automatic.from_config(body.config, dtype=dtype).eval()
    model.base_model.load_state_dict(body.base_model.state_dict())
    return model


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_head_trains_and_travels_with_every_adapter(adapter, dtype, tmp_path):
    case = "gpt2 classification"
    model, base = with_head(case, dtype), outputs(with_head(case, dtype))
    loda.inject(model, loda.LodaConfig(ADAPTERS[adapter]))
    assert "score.weight" in loda.trainable_parameters(model)
    optimizer = torch.optim.AdamW(loda.trainable_parameters(model).values(), lr=0.01)
    for _ in range(3):
        model(TOKENS, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = outputs(model)
    assert trained.isfinite().all()
    assert trained.dtype == dtype
    loda.save_pretrained(model, tmp_path)
    loaded = loda.from_pretrained(with_head(case, dtype, seed=1), tmp_path)  # its head has other random values
    assert torch.equal(outputs(loaded), trained)
    assert torch.equal(outputs(loda.unload(model)), base)


@pytest.mark.parametrize("case", HEADS)
def test_the_head_of_a_model_that_is_no_language_model_is_trained_by_default(case):
    model, (_, _, head) = with_head(case), HEADS[case]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    without = loda.cost(loda.inject(with_head(case), loda.LodaConfig(LoRA(), modules_to_save=())))
    loda.inject(model, loda.LodaConfig(LoRA()))
    added = sum(parameter.numel() for parameter in model.get_submodule(head).parameters())
    assert loda.cost(model).trainable_parameters == without.trainable_parameters + added
    assert [name for name in loda.trainable_parameters(model) if "adapters" not in name] == [
        name for name in before if name.startswith(head)
    ]
    perturb(model)
    trained = outputs(model)
    loda.merge(model)
    torch.testing.assert_close(outputs(model), trained, rtol=1e-4, atol=1e-4)
    assert not torch.equal(model.get_submodule(head).weight, before[f"{head}.weight"])


def test_other_modules_may_be_trained_whole_also_tied_ones(tmp_path):
    model, base = tiny("gpt2"), logits(tiny("gpt2"))
    config = loda.LodaConfig(LoDAPlus(), modules_to_save=("lm_head", "ln_f"))
    perturb(loda.inject(model, config))
    assert model.lm_head.weight is model.transformer.wte.weight
    loda.save_pretrained(model, tmp_path)
    assert torch.equal(logits(loda.from_pretrained(tiny("gpt2"), tmp_path)), logits(model))
    assert not torch.equal(logits(model), base)
    assert torch.equal(logits(loda.unload(model)), base)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"modules_to_save": ("scores",)}, r"modules_to_save=\('scores',\): this model has no module named \*\.scores"),
        ({"modules_to_save": ("c_attn",)}, "names transformer.h.0.attn.c_attn, and .* gets an adapter"),
        ({"modules_to_save": "score"}, "modules_to_save='score': input should be a valid tuple"),
    ],
    ids=str,
)
def test_modules_that_cannot_be_trained_whole_are_refused(settings, rule):
    model = tiny("gpt2")
    with untouched(model), pytest.raises(LodaError, match=rule):
        loda.inject(model, loda.LodaConfig(LoRA(), **settings))


def test_a_second_adapter_is_refused_with_the_door_that_has_several():
    model = loda.inject(tiny("gpt2"), loda.LodaConfig(LoRA()))
    with untouched(model), pytest.raises(LodaError, match=r"use loda\.peft, which keeps several named adapters"):
        loda.inject(model, loda.LodaConfig(LoRA()))


# Wrapped models


@pytest.fixture
def ddp(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'ddp'}", rank=0, world_size=1)
    yield DistributedDataParallel
    distributed.destroy_process_group()


@pytest.fixture
def accelerator():
    # One state for the process, which later tests must not meet.
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(params=["compile", "DataParallel", "DistributedDataParallel", "compile in it", "accelerate"])
def wrap(request):
    """Ways in which users wrap a model."""
    if "Distributed" in request.param or "in it" in request.param:
        parallel = request.getfixturevalue("ddp")
        return parallel if "Distributed" in request.param else lambda model: compiled(parallel(model))
    if request.param == "accelerate":
        return request.getfixturevalue("accelerator").prepare
    return {"compile": compiled, "DataParallel": nn.DataParallel}[request.param]


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def test_a_wrapped_model_is_the_model_in_it(wrap, tmp_path):
    model = perturb(loda.inject(tiny("gpt2"), loda.LodaConfig(LoRA())))
    expected, cost, names = logits(model), loda.cost(model), list(loda.trainable_parameters(model))
    wrapped = wrap(model)
    assert loda.cost(wrapped) == cost
    assert list(loda.trainable_parameters(wrapped)) == names
    loda.save_pretrained(wrapped, tmp_path)
    assert torch.equal(logits(loda.from_pretrained(tiny("gpt2"), tmp_path)), expected)
    merged = loda.merge(wrap(loda.from_pretrained(tiny("gpt2"), tmp_path)))
    torch.testing.assert_close(merged.get_submodule("lm_head")(torch.eye(32)), model.lm_head(torch.eye(32)))
    assert not projections(merged)
    loda.unload(wrapped)
    assert same_state(state(model), state(tiny("gpt2")))


def test_adapters_may_be_added_to_a_compiled_model(tmp_path):
    model, plain = compiled(tiny_gpt2(layers=1)), tiny_gpt2(layers=1)
    logits(model)
    for each in (model, plain):
        assert perturb(loda.inject(each, loda.LodaConfig(LoDAPlus()))) is each
    assert torch.equal(logits(model), logits(plain))
    loda.save_pretrained(model, tmp_path)
    loaded = loda.from_pretrained(compiled(tiny_gpt2(layers=1)), tmp_path)
    assert same_state(state(loaded._orig_mod), state(plain))


def test_what_would_not_see_the_adapter_is_refused(ddp, tmp_path):
    model = tiny("gpt2")
    loda.save_pretrained(loda.inject(tiny("gpt2"), loda.LodaConfig(LoRA())), tmp_path / "adapter")
    for wrapped in (nn.DataParallel(model), ddp(model), compiled(ddp(model))):
        with untouched(model), pytest.raises(LodaError, match="DataParallel, which would not see the modules"):
            loda.inject(wrapped, loda.LodaConfig(LoRA()))
        with untouched(model), pytest.raises(LodaError, match="DataParallel, which would not see the modules"):
            loda.from_pretrained(wrapped, tmp_path / "adapter")


def test_a_wrapped_part_is_refused():
    model, rule = tiny("gpt2"), r"transformer\.h\.0 is wrapped by OptimizedModule, .* wrap the whole model instead"
    model.transformer.h[0] = compiled(model.transformer.h[0])
    with pytest.raises(LodaError, match=rule):
        loda.inject(model, loda.LodaConfig(LoRA()))
    model = loda.inject(tiny("gpt2"), loda.LodaConfig(LoRA()))
    model.transformer.h[0] = compiled(model.transformer.h[0])
    assert loda.trainable_parameters(model)
    modules = list(model.modules())
    for verb in (loda.unload, loda.merge, loda.cost):
        with pytest.raises(LodaError, match=rule):
            verb(model)
    assert list(model.modules()) == modules


OFFLOADED = {
    "to the CPU": lambda model, folder: cpu_offload(model, "cpu"),
    "to the disk": lambda model, folder: disk_offload(model, folder, "cpu"),
    "in part": lambda model, folder: dispatch_model(
        model, {"transformer": "cpu", "transformer.h.1": "disk", "lm_head": "cpu"}, "cpu", offload_dir=folder
    ),
    "by hand": lambda model, folder: model.transformer.h[1].to("meta"),
}


@pytest.mark.parametrize("case", OFFLOADED)
def test_a_base_whose_weights_are_not_in_memory_is_refused(case, tmp_path):
    model = tiny("gpt2", tie_word_embeddings=False)
    loda.save_pretrained(loda.inject(tiny("gpt2"), loda.LodaConfig(LoRA())), tmp_path / "adapter")
    OFFLOADED[case](model, tmp_path / "weights")
    modules = list(model.modules())
    for add in (
        lambda: loda.inject(model, loda.LodaConfig(LoRA())),
        lambda: loda.from_pretrained(model, tmp_path / "adapter"),
    ):
        with pytest.raises(LodaError, match="is offloaded, so its weights are not in memory"):
            add()
    assert list(model.modules()) == modules


def test_a_dispatched_model_whose_weights_are_in_memory_is_adapted(tmp_path):
    model = dispatch_model(tiny("gpt2"), {"": "cpu"}, force_hooks=True)
    perturb(loda.inject(model, loda.LodaConfig(LoRA())))
    loda.save_pretrained(model, tmp_path)
    loaded = loda.from_pretrained(dispatch_model(tiny("gpt2"), {"": "cpu"}, force_hooks=True), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    loda.merge(loaded)
    torch.testing.assert_close(logits(loaded), logits(model))


# unload and merge give the base back


class OwnLinear(nn.Linear):
    """A subclass that computes what its parent does."""


LAYOUTS = {
    "contiguous": lambda weight: weight,
    "transposed": lambda weight: weight.T.contiguous().T,
    "expanded": lambda weight: weight[:1].expand_as(weight),
    "every other column": lambda weight: weight.repeat_interleave(2, dim=1)[:, ::2],
}


@st.composite
def linear_modules(draw) -> nn.Module:
    """A linear module in a model, of any class, shape, dtype and memory layout."""
    d_in, d_out = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from([nn.Linear, OwnLinear, Conv1D]))
    torch.manual_seed(draw(st.integers(0, 3)))
    module = Conv1D(d_out, d_in) if kind is Conv1D else kind(d_in, d_out, bias=draw(st.booleans()))
    module.to(draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64])))
    module.weight = nn.Parameter(LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](module.weight.detach()))
    return nn.Sequential(module)


@given(linear_modules(), st.sampled_from([LoRA(r=1), FullRank(), FineTune()]), st.data())
@settings(max_examples=60, deadline=None, database=None)
def test_a_linear_module_comes_back_as_it_was_and_merged_as_an_ordinary_one(model, adapter, data):
    module, dtype = model[0], model[0].weight.dtype
    d_in = module.nx if isinstance(module, Conv1D) else module.in_features
    shape = data.draw(st.sampled_from([(d_in,), (3, d_in), (2, 3, d_in), (0, d_in)]))
    x = torch.randn(shape, dtype=dtype)
    weight, before, outputs = module.weight, state(model), model(x)
    loda.inject(model, whole("0", adapter=adapter))
    torch.testing.assert_close(model(x), outputs)  # CPUs may sum another memory layout in another order
    give_values(loda.trainable_parameters(model))
    adapted, description = model(x), {name: value.shape for name, (value, _) in before.items()}
    merged = loda.merge(copy.deepcopy(model))
    assert type(merged[0]) is type(module)
    assert {name: tensor.shape for name, tensor in merged.state_dict().items()} == description
    assert all(tensor.is_contiguous() and tensor.dtype == dtype for tensor in merged[0].state_dict().values())
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(merged(x), adapted, rtol=tolerance, atol=tolerance)
    with io.BytesIO() as file:
        torch.save(merged.state_dict(), file)
        file.seek(0)
        again = nn.Sequential(Conv1D(module.nf, d_in) if isinstance(module, Conv1D) else copy.deepcopy(module)).to(
            dtype
        )
        again[0].weight = nn.Parameter(torch.empty_like(merged[0].weight))
        again.load_state_dict(torch.load(file))
    assert torch.equal(again(x), merged(x))
    loda.unload(model)
    assert model[0] is module
    assert module.weight is weight
    assert same_state(state(model), before)
    assert torch.equal(model(x), outputs)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox"])
def test_what_transformers_saves_after_unload_and_merge_is_an_ordinary_model(kind, tmp_path):
    model = perturb(loda.inject(tiny(kind), loda.LodaConfig(LoRA())))
    adapted = logits(model)
    loda.merge(copy.deepcopy(model)).save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), adapted)
    loda.unload(model).save_pretrained(tmp_path / "base")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "base")), logits(tiny(kind)))


def test_the_settings_that_name_modules_are_refused_where_they_would_do_nothing():
    with pytest.raises(LodaError, match="adapter=houlsby stands beside no projection"):
        loda.LodaConfig(ADAPTERS["houlsby"], layers_to_transform=(0,))


def test_adapters_that_start_alike_may_have_different_ranks():
    adapter = LoRA(init="reference", rank_pattern={r"h\.1\.attn\.c_attn": 8})
    model = loda.inject(tiny("gpt2"), loda.LodaConfig(adapter))
    assert [len(p.adapters["q"].B) for p in projections(model).values()] == [4, 8]
