"""loda.linearize: the LoRA that is nearest to a trained adapter, on the inputs of the calibration."""

import pytest
import torch

import loda
from loda.adapters import FineTune, FullRank, LoDA, LoDAPlus, LoRA, Prefix
from loda.approx import LowRank
from loda.errors import LodaError
from loda.projection import projections
from tests.ecosystem.models import tiny
from tests.library.models import TOKENS, logits, perturb, state, tiny_gpt2, untouched

BATCHES = torch.randint(64, (40, 12), generator=torch.Generator().manual_seed(3)).split(8)


def adapted(adapter, kind="gpt2", **settings):
    return perturb(loda.inject(tiny(kind), loda.LodaConfig(adapter, **settings))).eval()


@pytest.mark.parametrize("adapter", [LoRA(r=3), FullRank()], ids=repr)
def test_what_is_linear_already_stays_what_it_is(adapter):
    model = adapted(adapter)
    before = logits(model)
    rank = 3 if adapter.name == "lora" else 32
    fits = loda.linearize(model, rank, BATCHES, damping=1e-9)
    assert max(fit.error for fit in fits) < 1e-6
    torch.testing.assert_close(logits(model), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("adapter", [LoDA(r=3), LoDAPlus(r=3)], ids=repr)
def test_the_map_is_the_least_squares_solution_of_its_rank(adapter, kind):
    model = adapted(adapter, kind)
    seen = {}
    hooks = [
        projection.register_forward_pre_hook(
            lambda module, given, name=name: seen.setdefault(name, []).append(given[0])
        )
        for name, projection in projections(model).items()
    ]
    with torch.no_grad():
        for ids in BATCHES:
            model(ids)
    for hook in hooks:
        hook.remove()
    expected = {}
    for name, projection in projections(model).items():
        x = torch.cat([part.flatten(0, 1) for part in seen[name]])
        for part, adapter_of in projection.adapters.items():
            y = adapter_of(x).detach().double()
            whole = torch.linalg.lstsq(x.double(), y).solution
            tail = torch.linalg.svdvals(x.double() @ whole)[2:].square().sum()
            left = (y - x.double() @ whole).square().sum()
            expected[name, part] = float((left + tail) / y.square().sum()), float(left / y.square().sum())
    fits = loda.linearize(model, 2, BATCHES, damping=1e-12)
    assert len(fits) == len(expected)
    for fit in fits:
        error, nonlinearity = expected[fit.module, fit.slice]
        assert (fit.error, fit.nonlinearity) == pytest.approx((error, nonlinearity), rel=1e-3)
        assert 0 < fit.nonlinearity < fit.error < 1


def test_the_result_is_a_lora_that_merges_and_is_saved(tmp_path):
    model = adapted(LoDAPlus(r=3))
    loda.linearize(model, 4, BATCHES)
    loda.save_pretrained(model, tmp_path)
    found = logits(model)
    again = loda.from_pretrained(tiny("gpt2"), tmp_path)
    assert torch.equal(logits(again), found)
    torch.testing.assert_close(logits(loda.merge(again)), found, rtol=1e-4, atol=1e-4)


def test_the_approximation_under_the_adapters_stays():
    model = adapted(LoDAPlus(r=3), approx=LowRank(rank=8))
    before = {name: p.base.weight for name, p in projections(model).items()}
    loda.linearize(model, 3, BATCHES)
    assert all(torch.equal(p.base.weight, before[name]) for name, p in projections(model).items())


def test_what_cannot_be_linearized_is_refused_and_left_alone():
    for adapter in (Prefix(), FineTune()):
        model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(adapter))).eval()
        before = state(model)
        with pytest.raises(LodaError, match=f"adapter={adapter.name} is not one that stands beside projections alone"):
            loda.linearize(model, 2, BATCHES)
        assert state(model).keys() == before.keys()
    model = adapted(LoDA())
    with untouched(model), pytest.raises(LodaError, match="rank=33 must be from 1 to 32"):
        loda.linearize(model, 33, BATCHES)
    with untouched(model), pytest.raises(LodaError, match="no token of the batches reached"):
        loda.linearize(model, 2, [])
    model.train()
    with untouched(model), pytest.raises(LodaError, match=r"call model\.eval\(\) before loda\.linearize"):
        loda.linearize(model, 2, [TOKENS])
