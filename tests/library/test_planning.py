"""loda.plan: the ranks that spend a budget, and that the model is left as it was."""

import pytest
import torch

import loda
from loda.adapters import LoDAPlus, NoAdapter
from loda.approx import LowRank
from loda.approx.dense import DenseLinear
from loda.errors import LodaError
from loda.projection import projections
from tests.ecosystem.models import tiny
from tests.library.models import TOKENS, logits, same_state, state, tiny_gpt2, weight_of


def planned(model, approx, loss, adapter=NoAdapter(), **settings):  # noqa: B008, a frozen setting
    config = loda.LodaConfig(adapter, approx, targets="all", **settings)
    moments = loda.second_moments(model, config, TOKENS.split(1))
    return loda.plan(model, config, moments, lambda changed: [loss(changed)], lambda changed: loss(changed).item())


def far_from(model, ending=""):
    """A loss: how far the weights of the modules that end so are from those that `model` has now."""
    before = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith(f"{ending}.weight")}

    def loss(changed):
        return sum((changed.get_parameter(name) - p).square().sum() for name, p in before.items())

    return loss


def language_loss(model):
    return model(TOKENS, labels=TOKENS).loss


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("budget", [0.3, 0.6, 0.9])
def test_a_plan_costs_its_budget_and_leaves_the_model_as_it_was(kind, budget):
    model = tiny(kind)
    model.get_input_embeddings().requires_grad_(False)
    before, required = state(model), [parameter.requires_grad for parameter in model.parameters()]
    found = planned(
        model,
        LowRank(rank=None, budget=budget, allocation="probed", calibration=2),
        language_loss,
        joint=kind == "llama",
    )
    assert same_state(state(model), before)
    assert [parameter.requires_grad for parameter in model.parameters()] == required
    assert all(parameter.grad is None for parameter in model.parameters())
    assert budget - 0.1 <= found.share <= budget + 1e-9  # ranks are whole numbers, of matrices of 32 x 32 and more
    assert found.losses["planned"] <= found.losses["uniform"]
    assert found.losses["dense"] == language_loss(tiny(kind)).item()
    again = planned(
        tiny(kind),
        LowRank(rank=None, budget=budget, allocation="probed", calibration=2),
        language_loss,
        joint=kind == "llama",
    )
    assert (again.config, again.modules, again.losses) == (found.config, found.modules, found.losses)


@pytest.mark.parametrize("ending", ["c_attn", "c_fc"])
def test_the_ranks_go_where_the_loss_needs_them(ending):
    model = tiny_gpt2()
    found = planned(model, LowRank(rank=None, budget=0.5, allocation="probed", calibration=2), far_from(model, ending))
    shares = {}
    for module in found.modules:
        shares.setdefault(module.kind, []).append(module.macs / module.dense_macs)
    assert min(shares.pop(next(kind for kind in shares if kind.endswith(ending)))) > max(map(max, shares.values()))


def test_a_planned_model_computes_what_the_plan_says_and_is_saved_with_it(tmp_path):
    model = tiny("llama")
    approx = LowRank(rank=None, budget=0.8, allocation="probed", calibration=2)
    config = loda.LodaConfig(LoDAPlus(), approx, targets="all", joint=True)
    moments = loda.second_moments(model, config, TOKENS.split(1))
    found = planned(model, approx, far_from(model, "down_proj"), config.adapter, joint=True)
    assert {module.rank for module in found.modules if module.kind.endswith("down_proj")} == {0}  # dense
    given = found.approximation
    for name, tensor in loda.approximate(model, found.config, moments).items():
        torch.testing.assert_close(given[name], tensor)
    adapted = loda.inject(model, found.config, given)
    assert loda.cost(adapted).macs_per_token - sum(
        a.macs() for p in projections(adapted).values() for a in p.adapters.values()
    ) == sum(module.macs for module in found.modules)
    for name, projection in projections(adapted).items():
        assert isinstance(projection.base, DenseLinear) == name.endswith("down_proj")
    loda.save_pretrained(adapted, tmp_path, with_approximation=True)
    assert torch.equal(logits(loda.from_pretrained(tiny("llama"), tmp_path)), logits(adapted))
    base = loda.unload(adapted)
    assert torch.equal(logits(base), logits(tiny("llama")))


def test_a_budget_of_energy_or_loss_is_kept_with_as_few_multiply_accumulates_as_possible():
    model = tiny_gpt2()
    energy = planned(model, LowRank(rank=None, budget=0.9, measure="energy", calibration=2), language_loss)
    assert sum(module.energy for module in energy.modules) / len(energy.modules) >= 0.9
    loss = far_from(model)
    whole = loss(_zeroed(tiny_gpt2())).item()
    by_loss = planned(model, LowRank(rank=None, budget=0.1 * whole, measure="loss", calibration=2), loss)
    assert by_loss.losses["planned"] - by_loss.losses["dense"] <= 0.1 * whole
    less = planned(model, LowRank(rank=None, budget=by_loss.share - 0.05, allocation="probed", calibration=2), loss)
    assert less.losses["uniform"] > 0.1 * whole


def _zeroed(model):
    for name, parameter in model.named_parameters():
        if ".h." in name:
            parameter.data.zero_()
    return model


def test_the_kept_output_energy_is_that_of_the_outputs():
    # The damping adds to every input's energy, so with next to none the two are the same.
    model, approx = tiny_gpt2(), LowRank(rank=None, budget=0.4, allocation="probed", calibration=2, damping=1e-9)
    config, seen = loda.LodaConfig(NoAdapter(), approx, targets="all"), {}
    name = "transformer.h.1.mlp.c_proj"
    hook = model.get_submodule(name).register_forward_pre_hook(lambda module, given: seen.setdefault(0, given[0]))
    many = torch.randint(64, (40, 12), generator=torch.Generator().manual_seed(3))  # more tokens than inputs
    moments = loda.second_moments(model, config, [many])
    hook.remove()
    found = loda.plan(model, config, moments, lambda m: [language_loss(m)], lambda m: language_loss(m).item())
    (module,) = [each for each in found.modules if each.modules == (name,)]
    x, weight = seen[0].flatten(0, 1), model.get_submodule(name).weight.detach()
    approximated = found.approximation[f"{name}.W_A"] @ found.approximation[f"{name}.W_B"]
    lost = (x @ (weight - approximated)).square().sum() / (x @ weight).square().sum()
    assert 0 < module.output_energy == pytest.approx(1 - lost.item(), abs=1e-4)


def test_a_uniform_budget_needs_no_plan():
    config = loda.LodaConfig(NoAdapter(), LowRank(rank=None, budget=0.5), targets="all")
    model = loda.inject(tiny_gpt2(), config)
    for projection in projections(model).values():
        share = projection.macs() / (projection.d_in * projection.d_out)
        assert 0.4 < share <= 0.5
        assert torch.linalg.matrix_rank(weight_of(projection.base)) == projection.base.W_A.shape[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0.5}, "rank=300 and budget=0.5: give one of the two"),
        ({"rank": None}, "rank=None and budget=None: give one of the two"),
        ({"rank": None, "budget": 1.5}, r"budget=1\.5 of macs must be above 0"),
        ({"rank": None, "budget": 0.04, "allocation": "probed", "calibration": 2}, r"budget=0\.04 is less than 0\.05"),
        ({"rank": None, "budget": 0.9, "measure": "energy", "allocation": "probed", "calibration": 2}, "not energy"),
        ({"rank": None, "budget": 0.0}, r"budget=0\.0 of macs must be above 0"),
        ({"allocation": "probed", "calibration": 2}, "are ways to spend a budget; set it"),
        ({"rank": None, "budget": 0.5, "allocation": "probed"}, "set calibration to their number"),
    ],
    ids=str,
)
def test_budgets_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(LodaError, match=message):
        LowRank(**settings)


def test_what_cannot_be_planned_is_refused():
    approx = LowRank(rank=None, budget=0.5, allocation="probed", calibration=2)
    config = loda.LodaConfig(NoAdapter(), approx)
    moments = loda.second_moments(tiny_gpt2(), config, [TOKENS])
    with pytest.raises(LodaError, match=r"has no budget to plan; give LowRank\(rank=None"):
        loda.plan(tiny_gpt2(), loda.LodaConfig(NoAdapter(), LowRank(rank=4)), moments, list, float)
    with pytest.raises(LodaError, match=r"needs a plan: use the configuration that loda.plan returns"):
        loda.approximate(tiny_gpt2(), config, moments)
    model = tiny_gpt2()
    before = state(model)
    with pytest.raises(LodaError, match="the loss of a probe is nan"):
        loda.plan(model, config, moments, list, lambda model: float("nan"))
    assert same_state(state(model), before)
    pattern = LowRank(rank=4, rank_pattern={"transformer.h.9.attn.c_attn": 4})
    with pytest.raises(LodaError, match=r"rank_pattern names transformer.h.9.attn.c_attn, which is not approximated"):
        loda.inject(tiny_gpt2(), loda.LodaConfig(NoAdapter(), pattern))
    unequal = LowRank(rank=4, rank_pattern={"model.layers.0.self_attn.q_proj": 3, "model.layers.0.self_attn.k_proj": 4})
    with pytest.raises(LodaError, match=r"rank_pattern has different ranks for .*q_proj and .*k_proj"):
        loda.inject(tiny("llama"), loda.LodaConfig(NoAdapter(), unequal, joint=True))
