"""AdaptedProjection: modes, dropout and memory; outputs, gradients and masks are held to loralib's in parity."""

import pytest
import torch

import loda
from loda.adapters import LoDAPlus, LoRA
from loda.projection import projections
from tests.library.models import APPROXIMATIONS, WIDE, logits, perturb, same_state, state, tiny_gpt2


def test_each_layer_has_a_mask_of_its_own():
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA(dropout=0.5)))).train()
    torch.manual_seed(0)
    first, second = (p.dropout(torch.ones(32)) for p in projections(model).values())
    assert not torch.equal(first, second)


def test_train_and_eval_mode_differ_in_dropout_alone():
    # loralib's train() rewrites weights; here nothing but the mask may change.
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoDAPlus(dropout=0.0))))
    before, outputs = state(model), logits(model)
    for mode in (True, False, True):
        assert torch.equal(logits(model.train(mode)), outputs)
        assert same_state(before, state(model))
    with_dropout = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoDAPlus(dropout=0.5))))
    assert torch.equal(logits(with_dropout.eval()), outputs)
    assert not torch.equal(logits(with_dropout.train()), outputs)


@pytest.mark.parametrize("mode", [True, False])
def test_injected_modules_are_in_the_mode_of_the_model(mode):
    model = loda.inject(tiny_gpt2().train(mode), loda.LodaConfig(LoDAPlus(dropout=0.5)))
    assert {module.training for module in model.modules()} == {mode}


@pytest.mark.parametrize("approx", APPROXIMATIONS.values(), ids=APPROXIMATIONS)
def test_a_frozen_map_keeps_no_activations_for_the_backward_pass(approx):
    # A frozen weight has no gradient, so the backward pass needs the weight but not the input.
    base = approx.approximate(torch.randn(WIDE, 3 * WIDE), torch.randn(3 * WIDE))
    x, stored = torch.randn(5, WIDE, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        base(x).sum().backward()
    weights = {p.untyped_storage().data_ptr() for p in (*base.parameters(), *base.buffers())}
    assert {t.untyped_storage().data_ptr() for t in stored} <= weights
    assert x.grad is not None
