"""loda.optimize_for_inference: the same outputs to 1e-5, and an ordinary trained model no longer."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import loda
from loda.adapters import LoDA, LoDAPlus, LoRA, NoAdapter, Prefix
from loda.adapters.nonlinear import StackConfig
from loda.approx import Dense, LowRank, Quantized, Sparse
from loda.architectures import is_linear
from loda.errors import LodaError
from loda.inference import InferenceProjection
from loda.projection import projections
from tests.ecosystem.models import SETTINGS, tiny
from tests.library.models import ADAPTERS, APPROXIMATIONS, TOKENS, logits, perturb, tiny_gpt2, untouched, wide_gpt2

APPROX = {"dense": Dense(), "low_rank": LowRank(rank=12), "sparse": Sparse(keep=0.5)}


def adapted(adapter, approx=APPROX["dense"], slices=("q", "v"), model=None):
    return perturb(loda.inject(model or tiny_gpt2(), loda.LodaConfig(adapter, approx, slices))).eval()


def assert_same_outputs(model) -> None:
    """The bound is relative to the size of the outputs, in float32."""
    before = logits(model)
    after = logits(loda.optimize_for_inference(model))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * before.abs().max().item())


@pytest.mark.parametrize("approx", APPROXIMATIONS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_part_there_is(adapter, approx):
    assert_same_outputs(adapted(ADAPTERS[adapter], APPROXIMATIONS[approx], model=wide_gpt2()))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_base_of_half_precision_computes_in_it(adapter):
    model = adapted(ADAPTERS[adapter], model=tiny_gpt2().bfloat16())
    before = logits(model)
    after = logits(loda.optimize_for_inference(model))
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after, before, rtol=0.1, atol=0.02 * before.abs().max().item())


@pytest.mark.parametrize("approx", APPROX.values(), ids=APPROX)
@pytest.mark.parametrize("adapter", [NoAdapter(), LoRA(r=3), LoDA(r=3), LoDAPlus(r=3)], ids=repr)
def test_all_projections_become_fast_ones(adapter, approx):
    model = loda.optimize_for_inference(adapted(adapter, approx))
    assert not projections(model)
    assert len([m for m in model.modules() if isinstance(m, InferenceProjection)]) == 2


def test_a_prefix_is_computed_once_and_not_for_every_token():
    model = loda.optimize_for_inference(adapted(Prefix()))
    assert not [name for name, _ in model.named_parameters() if "inserted.mlp" in name]


@pytest.mark.parametrize("slices", [("q",), ("k", "v"), ("v", "q"), ("v", "k", "q")])
@pytest.mark.parametrize("adapter", [LoDA(), LoDAPlus()], ids=["loda", "loda_plus"])
def test_any_slices(adapter, slices):
    assert_same_outputs(adapted(adapter, slices=slices))


@pytest.mark.parametrize("adapter", [LoRA(), LoDA(), LoDAPlus()], ids=repr)
def test_it_runs_under_autocast(adapter):
    model = loda.optimize_for_inference(adapted(adapter))
    expected = logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(logits(model).float(), expected, rtol=0.1, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("adapter", [LoRA(), LoDA(), LoDAPlus()], ids=repr)
def test_every_architecture(kind, adapter):
    # q, k and v in one module, side by side or head by head, in three, with fewer keys than queries, transposed or not
    assert_same_outputs(adapted(adapter, APPROX["low_rank"], model=tiny(kind)))


@pytest.mark.parametrize("f1", ["linear", "linear-activation", "norm-linear", "activation-linear-norm"])
@pytest.mark.parametrize("f2", ["activation", "norm-activation", "activation-norm"])
@pytest.mark.parametrize("stages", [1, 3])
def test_any_order_within_f1_and_f2(f1, f2, stages):
    # A norm in f2 undoes the scale alpha / r of what is before it.
    assert_same_outputs(adapted(LoDAPlus(f1=StackConfig(stages, f1), f2=StackConfig(stages, f2))))


def test_generated_tokens_are_the_same():
    model = adapted(LoDAPlus(), APPROX["low_rank"])
    settings = {"do_sample": False, "num_beams": 3, "max_new_tokens": 15}
    settings |= {"attention_mask": torch.ones_like(TOKENS), "eos_token_id": None, "pad_token_id": 0}
    before = model.generate(TOKENS, **settings)
    assert torch.equal(loda.optimize_for_inference(model).generate(TOKENS, **settings), before)


def test_a_model_in_training_mode_is_refused_and_left_alone():
    model = adapted(LoDAPlus()).train()
    with untouched(model), pytest.raises(LodaError, match=r"model\.eval\(\)"):
        loda.optimize_for_inference(model)


def test_it_cannot_be_trained_afterwards():
    model = loda.optimize_for_inference(adapted(LoDAPlus()))
    assert not loda.trainable_parameters(model)
    with pytest.raises(LodaError, match="cannot be trained"):
        model.train()(TOKENS)
    embedded = model.eval().get_input_embeddings()(TOKENS).requires_grad_()
    with pytest.raises(LodaError, match="cannot be trained"):
        model(inputs_embeds=embedded)


@pytest.mark.parametrize("verb", ["save_pretrained", "merge", "unload", "cost", "optimize_for_inference"])
def test_it_cannot_be_taken_apart_afterwards(verb, tmp_path):
    model = loda.optimize_for_inference(adapted(LoRA()))
    arguments = [tmp_path / "adapter"] if verb == "save_pretrained" else []
    with pytest.raises(LodaError, match="optimised for inference"):
        getattr(loda, verb)(model, *arguments)
    assert not list(tmp_path.iterdir())


def test_projections_that_share_a_factor_share_the_product_with_their_adapters():
    config = loda.LodaConfig(LoDAPlus(r=3), LowRank(rank=4), targets="all", joint=True)
    model = perturb(loda.inject(tiny("llama"), config)).eval()
    before = logits(model)
    with FlopCounterMode(display=False) as plain:
        logits(model)
    loda.optimize_for_inference(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5 * before.abs().max().item())
    with FlopCounterMode(display=False) as fast:
        logits(model)
    # Each second factor has zeros for the ranks of the other adapters: 2 * 3 rows of 16 or 32 columns. Without sharing,
    # three more products of 32 x 4 would run in every block.
    blocks, width = 2, 32
    spare = blocks * 2 * 3 * 3 * width
    assert fast.get_total_flops() // 2 <= plain.get_total_flops() // 2 + TOKENS.numel() * spare


INT8 = [Dense(), LowRank(rank=24), Sparse(keep=0.5), Quantized()]


@pytest.mark.parametrize("approx", INT8, ids=repr)
@pytest.mark.parametrize("adapter", [NoAdapter(), LoRA(r=3), LoDAPlus(r=3)], ids=repr)
def test_int8_products_change_outputs_by_about_a_hundredth(adapter, approx):
    model = adapted(adapter, approx)
    name, projection = next(iter(projections(model).items()))
    x = torch.randn(5, projection.d_in)
    expected = projection(x).detach()
    loda.optimize_for_inference(model, int8=True)
    found = model.get_submodule(name)
    assert (found(x) - expected).norm() < 0.03 * expected.norm()
    # Every token has its own scale, so the others beside it do not matter.
    torch.testing.assert_close(found(x)[1:3], found(x[1:3]), rtol=1e-5, atol=1e-5)
    assert not [m for m in model.modules() if is_linear(m) and not isinstance(m, nn.Embedding)]
    assert torch.equal(found(torch.zeros(1, 32)), found(torch.zeros(1, 32)))
    assert found(torch.zeros(1, 32)).isfinite().all()


def test_an_int8_model_generates_and_keeps_its_embeddings():
    model = adapted(LoDAPlus())
    embeddings = model.transformer.wte.weight.clone()
    loda.optimize_for_inference(model, int8=True)
    assert torch.equal(model.transformer.wte.weight, embeddings)  # the head that was tied to them is rounded
    found = model.generate(TOKENS, do_sample=False, max_new_tokens=4, eos_token_id=None, pad_token_id=0)
    assert found.shape == (2, TOKENS.shape[1] + 4)


def test_int8_is_refused_away_from_the_cpu():
    model = loda.inject(tiny_gpt2().to("meta"), loda.LodaConfig(LoRA())).eval()
    with pytest.raises(LodaError, match="int8=True multiplies on the CPU alone"):
        loda.optimize_for_inference(model, int8=True)
