"""loda.optimize_for_inference: the same outputs to 1e-5, and an ordinary trained model no longer."""

import pytest
import torch

import loda
from loda.adapters import LoDA, LoDAPlus, LoRA, NoAdapter, Prefix
from loda.adapters.nonlinear import StackConfig
from loda.approx import Dense, LowRank, Sparse
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
