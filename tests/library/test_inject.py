"""inject, unload, merge: what they change, what they restore, and that a refusal touches nothing."""

import pytest
import torch
from torch import nn
from transformers import GPT2Model

import loda
from loda.adapters import FineTune, LoDA, LoDAPlus, LoRA
from loda.approx import Dense, LowRank, Sparse
from loda.architectures import group_of
from loda.checkpoint import fingerprint
from loda.errors import LodaError
from loda.merging import is_mergeable
from loda.projection import projections
from tests.library.models import ADAPTERS, TOKENS, logits, perturb, same_state, state, tiny_gpt2, untouched

every_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
SMALL = [Dense(), LowRank(rank=8), Sparse(keep=0.5)]


def partly_frozen() -> nn.Module:
    """A base in which some parameters do not train, so that forgotten flags show."""
    model = tiny_gpt2()
    model.transformer.wte.requires_grad_(False)
    model.transformer.h[1].attn.c_attn.bias.requires_grad_(False)
    return model


def test_inject_works_in_place_and_returns_the_model():
    model = tiny_gpt2()
    assert loda.inject(model, loda.LodaConfig(LoRA())) is model
    assert list(projections(model)) == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    assert {name.split(".")[5] for name in loda.trainable_parameters(model)} == {"adapters"}


def test_the_bare_transformer_is_adapted_as_well():
    model = loda.inject(GPT2Model(tiny_gpt2().config), loda.LodaConfig(LoRA()))
    assert list(projections(model)) == ["h.0.attn.c_attn", "h.1.attn.c_attn"]


def test_the_base_weights_are_shared_not_copied():
    model = tiny_gpt2()
    address = model.transformer.h[0].attn.c_attn.weight.data_ptr()
    loda.inject(model, loda.LodaConfig(LoRA()))
    assert projections(model)["transformer.h.0.attn.c_attn"].base.weight.data_ptr() == address
    loda.unload(model)
    assert model.transformer.h[0].attn.c_attn.weight.data_ptr() == address


def test_inject_twice_is_refused():
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA())))
    with untouched(model), pytest.raises(LodaError, match="already holds adapters"):
        loda.inject(model, loda.LodaConfig(LoDA()))


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (loda.LodaConfig(LoRA(), LowRank(rank=300)), r"rank=300 exceeds min\(d, 3d\) = 32"),
        (loda.LodaConfig(LoRA(), Sparse(keep=1e-5)), "keep=1e-05 keeps no entry"),
        (loda.LodaConfig(LoRA(), Sparse(keep=0.01, calibration=4)), "keep=0.01 keeps no entry"),  # of an output
        (loda.LodaConfig(LoRA(), slices=("q", "o")), "has no slice 'o', it has q, k, v"),
    ],
    ids=["rank", "keep", "keep-calibrated", "slice"],
)
def test_settings_that_do_not_fit_are_refused(config, rule):
    model = partly_frozen()
    with untouched(model), pytest.raises(LodaError, match=rule):
        loda.inject(model, config)


def test_a_given_approximation_goes_to_where_the_weight_is():
    # Stored tensors are read on the CPU; the meta device stands for a GPU.
    config = loda.LodaConfig(LoRA(), LowRank(rank=8))
    given = loda.approximate(tiny_gpt2(), config)
    model = loda.inject(tiny_gpt2().to("meta"), config, given)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_unload_restores_a_tied_weight_and_merging_into_it_is_refused(tmp_path):
    model = tiny_gpt2()
    before, outputs = state(model), logits(model)
    config = loda.LodaConfig(LoRA(), targets=("lm_head", "c_attn"))
    perturb(loda.inject(model, config))
    with untouched(model), pytest.raises(LodaError, match=r"lm_head is transformer\.wte\.weight too"):
        loda.merge(model)
    loda.save_pretrained(model, tmp_path)
    adapted = logits(model)
    loda.unload(model)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert same_state(before, state(model))
    assert torch.equal(logits(model), outputs)
    assert torch.equal(logits(loda.from_pretrained(model, tmp_path)), adapted)


def test_a_module_at_two_places_is_refused():
    model = tiny_gpt2()
    model.transformer.h[1].attn.c_attn = model.transformer.h[0].attn.c_attn
    with untouched(model), pytest.raises(LodaError, match=r"h\.0\..* and .*h\.1\.attn\.c_attn are one module"):
        loda.inject(model, loda.LodaConfig(LoRA()))


def wrong_approximations(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    right = loda.approximate(model, loda.LodaConfig(LoRA(), LowRank(rank=8)))
    first = next(iter(right))
    return {
        "of another model": {name.removeprefix("transformer."): tensor for name, tensor in right.items()},
        "of another kind": loda.approximate(model, loda.LodaConfig(LoRA(), Sparse())),
        "of another rank": loda.approximate(model, loda.LodaConfig(LoRA(), LowRank(rank=7))),
        "of another dtype": right | {first: right[first].double()},
        "without a tensor": {name: tensor for name, tensor in right.items() if name != first},
    }


@pytest.mark.parametrize("case", wrong_approximations(tiny_gpt2()))
def test_an_approximation_of_something_else_is_refused(case):
    model = partly_frozen()
    wrong = wrong_approximations(model)[case]
    with untouched(model), pytest.raises(LodaError, match="the given approximation"):
        loda.inject(model, loda.LodaConfig(LoRA(), LowRank(rank=8)), wrong)


def test_another_number_of_kept_entries_is_refused():
    model, half = tiny_gpt2(), loda.approximate(tiny_gpt2(), loda.LodaConfig(LoRA(), Sparse(keep=0.5)))
    with (
        untouched(model),
        pytest.raises(LodaError, match=r"kept=1536, but SparseConfig\(keep=0.4, calibration=0\) gives 1229"),
    ):
        loda.inject(model, loda.LodaConfig(LoRA(), Sparse(keep=0.4)), half)


@every_adapter
@pytest.mark.parametrize("approx", SMALL, ids=repr)
def test_unload_restores_the_base_bit_for_bit(adapter, approx):
    model = partly_frozen().train()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
    before, outputs, weights = state(model), logits(model), fingerprint(model)
    perturb(loda.inject(model, loda.LodaConfig(adapter, approx)))
    assert fingerprint(model) == weights
    assert loda.unload(model) is model
    assert fingerprint(model) == weights
    assert dict(model.named_modules()) == modules
    assert all(p is parameters[n] for n, p in model.named_parameters(remove_duplicate=False))
    assert all(module.training for module in model.modules())
    assert same_state(before, state(model))
    assert torch.equal(logits(model), outputs)
    loda.inject(model, loda.LodaConfig(adapter))  # it is a base again


@pytest.mark.parametrize("approx", SMALL, ids=repr)
def test_unload_brings_the_base_to_where_the_model_was_moved(approx):
    for adapter in (LoRA(), FineTune()):
        model = loda.inject(tiny_gpt2(), loda.LodaConfig(adapter, approx)).double()
        assert fingerprint(model) == fingerprint(tiny_gpt2().double())
        assert torch.equal(logits(loda.unload(model)), logits(tiny_gpt2().double()))


@every_adapter
@pytest.mark.parametrize("approx", SMALL, ids=repr)
def test_merge_keeps_the_function_or_refuses_and_touches_nothing(adapter, approx):
    model = partly_frozen()
    given = dict(model.named_parameters())  # may be shared with another model
    perturb(loda.inject(model, loda.LodaConfig(adapter, approx)))
    outputs = logits(model)
    linear = adapter.name in ("lora", "full_rank", "finetune", "finetune_top2", "none")
    assert is_mergeable(model) == (linear and approx == Dense())
    if is_mergeable(model):
        before = {name: p.requires_grad for name, p in partly_frozen().named_parameters()}
        assert loda.merge(model) is model
        torch.testing.assert_close(logits(model), outputs, rtol=1e-5, atol=1e-5)
        assert not projections(model)
        assert {name: p.requires_grad for name, p in model.named_parameters()} == before
        assert all(torch.equal(given[name], p) for name, p in tiny_gpt2().named_parameters())
    else:
        with untouched(model), pytest.raises(LodaError, match="cannot be merged"):
            loda.merge(model)


@pytest.mark.parametrize("verb", ["unload", "merge", "cost", "optimize_for_inference", "save_pretrained"])
def test_a_model_without_adapters_is_refused(verb):
    model = partly_frozen()
    with untouched(model), pytest.raises(LodaError, match="holds no adapters"):
        getattr(loda, verb)(model, *(["nowhere"] if verb == "save_pretrained" else []))


def test_the_approximation_is_of_the_dtype_of_the_base():
    model = tiny_gpt2().to(torch.bfloat16)
    loda.inject(model, loda.LodaConfig(LoDAPlus(), LowRank(rank=8)))
    assert {p.dtype for found in projections(model).values() for p in found.base.parameters()} == {torch.bfloat16}
    assert model(TOKENS).logits.isfinite().all()


@pytest.mark.parametrize("parent", ["crossattention.self", "layers.0.encoder_attn", "EncDecAttention"])
def test_modules_that_read_different_inputs_are_never_one_group(parent):
    assert len({group_of(f"{parent}.{name}", is_attention=True) for name in ("q", "k", "v")}) == 3
    assert len({group_of(f"layers.0.self_attn.{name}", is_attention=True) for name in ("q", "k", "v")}) == 1
