"""What every approximation promises, by discovery, and what the low-rank and the sparse one are."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

import loda
from loda.adapters import NoAdapter
from loda.approx import LowRank, Sparse
from loda.config import part_name
from loda.errors import LodaError
from loda.model import projections
from tests.library.models import APPROXIMATIONS, WIDE, logits, tiny_gpt2

every_approximation = pytest.mark.parametrize("name", APPROXIMATIONS)
BIAS = torch.randn(3 * WIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def weight():
    return torch.randn(WIDE, 3 * WIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tensors(weight):
    """The tensors of every approximation of `weight`, by name of the approximation."""
    return {name: config.approximate(weight) for name, config in APPROXIMATIONS.items()}


@pytest.fixture
def frozen(name, tensors):
    return APPROXIMATIONS[name].build(tensors[name], BIAS)


def test_the_approximations_of_the_paper_are_discovered():
    assert {"dense", "low_rank", "sparse"} <= set(APPROXIMATIONS)


def test_the_source_weight_is_left_alone(weight, tensors):
    assert torch.equal(weight, torch.randn(WIDE, 3 * WIDE, generator=torch.Generator().manual_seed(0)))


@every_approximation
def test_forward_is_the_dense_weight(name, frozen):
    x = torch.randn(2, 3, WIDE)
    torch.testing.assert_close(frozen(x), x @ frozen.dense() + BIAS, rtol=1e-4, atol=1e-4)
    assert frozen.dense().shape == (WIDE, 3 * WIDE)


@every_approximation
def test_a_projection_without_bias(name, tensors):
    x = torch.randn(4, WIDE)
    without, zero = (APPROXIMATIONS[name].build(tensors[name], bias) for bias in (None, torch.zeros(3 * WIDE)))
    torch.testing.assert_close(without(x), zero(x), rtol=1e-5, atol=1e-5)


@every_approximation
def test_the_energy_is_the_kept_part_of_the_squared_norm(name, frozen, weight):
    kept = frozen.dense().double().square().sum() / weight.double().square().sum()
    assert frozen.energy == pytest.approx(kept.item(), rel=1e-6)
    assert 0 < frozen.energy <= 1


@every_approximation
def test_macs_are_no_more_than_run(name, frozen):
    # Fewer where a sparse engine would skip the zeros that a dense kernel multiplies.
    with FlopCounterMode(display=False) as counter:
        frozen(torch.randn(1, WIDE))
    assert 0 < frozen.macs() <= counter.get_total_flops() // 2


@every_approximation
def test_nothing_trains_and_gradients_pass_to_the_input(name, frozen):
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    x = torch.randn(2, WIDE, requires_grad=True)
    frozen(x).sum().backward()
    torch.testing.assert_close(x.grad, frozen.dense().sum(1).expand(2, WIDE), rtol=1e-4, atol=1e-4)


@every_approximation
def test_stored_tensors_build_the_same_projection(name, frozen, tensors):
    stored = frozen.tensors()
    # Contiguous, or they would be laid out otherwise after loading and products be rounded otherwise.
    assert all(t.is_contiguous() for t in stored.values())
    assert {key: (t.shape, t.dtype) for key, t in stored.items()} == {
        key: (t.shape, t.dtype) for key, t in tensors[name].items()
    }
    again, x = APPROXIMATIONS[name].build(stored, BIAS), torch.randn(2, WIDE)
    assert torch.equal(frozen(x), again(x))
    assert (frozen.energy, frozen.macs()) == (again.energy, again.macs())


@every_approximation
def test_the_parts_of_an_approximation_stand_side_by_side(name, frozen, tensors):
    # Models with three modules for q, k and v hold the approximation of [W_q, W_k, W_v] like this.
    config, widths = APPROXIMATIONS[name], [WIDE, 64, 2 * WIDE - 64]
    parts = [config.build(part, None) for part in config.split(tensors[name], widths)]
    assert [part.dense().shape[1] for part in parts] == widths
    assert torch.equal(torch.cat([part.dense() for part in parts], dim=1), frozen.dense())
    empty = config.split(config.approximate(torch.empty(WIDE, 3 * WIDE, device="meta")), widths)
    for part, real in zip(empty, parts, strict=True):
        assert {key: t.shape for key, t in part.items()} == {key: t.shape for key, t in real.tensors().items()}
        assert config.build(part, None).macs() == pytest.approx(real.macs(), rel=0.02)


@every_approximation
def test_the_meta_device_gives_the_same_names_shapes_and_macs(name, frozen, tensors):
    # `cost` counts without weights, and given tensors are checked against these.
    config = APPROXIMATIONS[name]
    empty = config.approximate(torch.empty(WIDE, 3 * WIDE, device="meta"))
    assert {key: t.shape for key, t in empty.items()} == {key: t.shape for key, t in tensors[name].items()}
    assert config.build(empty, None).macs() == frozen.macs()


@pytest.mark.parametrize("approx", [LowRank(rank=8), Sparse(keep=0.5)], ids=part_name)
def test_the_model_runs_on_the_approximated_weight(approx):
    # k changes as well: the approximation is of the whole [W_q, W_k, W_v] (the paper's footnote 2).
    model, base = loda.inject(tiny_gpt2(), loda.LodaConfig(NoAdapter(), approx)), tiny_gpt2()
    for name, projection in projections(model).items():
        original = base.get_submodule(name).weight
        assert (projection.frozen.dense() != original).view(32, 3, 32).any(dim=2).all(dim=1).any()
        original.data = projection.frozen.dense()
    torch.testing.assert_close(logits(model), logits(base), rtol=1e-4, atol=1e-4)


def test_a_full_approximation_changes_nothing():
    before = logits(tiny_gpt2())
    sparse = loda.inject(tiny_gpt2(), loda.LodaConfig(NoAdapter(), Sparse(keep=1.0)))
    assert torch.equal(logits(sparse), before)
    low_rank = loda.inject(tiny_gpt2(), loda.LodaConfig(NoAdapter(), LowRank(rank=32)))
    torch.testing.assert_close(logits(low_rank), before, rtol=1e-4, atol=1e-4)
    assert loda.cost(sparse).energy == 1
    assert loda.cost(low_rank).energy == pytest.approx(1)


# Low rank.


@st.composite
def shapes_and_ranks(draw):
    rows, columns = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    return rows, columns, draw(st.integers(1, min(rows, columns))), draw(st.integers(0, 1000))


@given(shapes_and_ranks())
@settings(deadline=None)
def test_the_error_of_rank_r_is_the_tail_of_the_spectrum(case):
    rows, columns, rank, seed = case
    weight = np.random.default_rng(seed).standard_normal((rows, columns))
    tensors = LowRank(rank=rank).approximate(torch.from_numpy(weight))
    frozen = LowRank(rank=rank).build(tensors, None)
    spectrum = np.linalg.svd(weight, compute_uv=False)
    error = np.linalg.norm(weight - frozen.dense().numpy()) ** 2
    assert error == pytest.approx((spectrum[rank:] ** 2).sum(), rel=1e-9, abs=1e-12)
    assert frozen.energy == pytest.approx((spectrum[:rank] ** 2).sum() / (spectrum**2).sum(), rel=1e-9)
    assert np.linalg.matrix_rank(frozen.dense().numpy()) == rank
    assert tensors["W_A"].shape == (rows, rank)
    assert tensors["W_B"].shape == (rank, columns)


def test_the_best_approximation_is_numpys():
    weight = np.random.default_rng(0).standard_normal((20, 60))
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    frozen = LowRank(rank=7).build(LowRank(rank=7).approximate(torch.from_numpy(weight)), None)
    np.testing.assert_allclose(frozen.dense().numpy(), (u[:, :7] * s[:7]) @ vt[:7], atol=1e-12)


def test_the_factors_share_the_singular_values_and_have_fixed_signs():
    weight = torch.randn(20, 60, dtype=torch.float64)
    factors = LowRank(rank=7).approximate(weight)
    spectrum = torch.linalg.svdvals(weight)[:7]
    torch.testing.assert_close(factors["W_A"].norm(dim=0).square(), spectrum)
    torch.testing.assert_close(factors["W_B"].norm(dim=1).square(), spectrum)
    largest = factors["W_A"].gather(0, factors["W_A"].abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    mirrored = LowRank(rank=7).approximate(-weight)
    torch.testing.assert_close(mirrored["W_A"], factors["W_A"])
    torch.testing.assert_close(mirrored["W_B"], -factors["W_B"])


def test_the_forward_pass_multiplies_by_the_factors():
    # 4Rd multiply-accumulates and never the product of the factors, which alone would take 3Rd^2.
    frozen = LowRank(rank=8).build(LowRank(rank=8).approximate(torch.randn(32, 96)), torch.zeros(96))
    with FlopCounterMode(display=False) as counter:
        frozen(torch.randn(5, 32))
    assert frozen.macs() == 4 * 8 * 32
    assert counter.get_total_flops() == 2 * 5 * frozen.macs()


@pytest.mark.parametrize("rank", [33, 1000])
def test_a_rank_beyond_the_matrix_is_refused(rank):
    with pytest.raises(LodaError, match=rf"rank={rank} exceeds min\(d, 3d\) = 32 of the 32 x 96"):
        LowRank(rank=rank).approximate(torch.randn(32, 96))


# Sparse.

# Small whole numbers, so that many entries have the same magnitude and some are zero.
tied_weights = st.lists(st.integers(-4, 4), min_size=4, max_size=60)


@given(tied_weights, st.floats(0.01, 1.0))
@settings(deadline=None)
def test_the_largest_entries_are_kept_and_ties_go_to_the_first(values, keep):
    kept = round(keep * len(values))
    weight = torch.tensor([values], dtype=torch.float32)
    if kept == 0:
        with pytest.raises(LodaError, match="keeps no entry"):
            Sparse(keep=keep).approximate(weight)
        return
    tensors = Sparse(keep=keep).approximate(weight)
    first_largest = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:kept]
    expected = [value if i in first_largest else 0 for i, value in enumerate(values)]
    assert tensors["weight"].tolist() == [expected]
    assert Sparse(keep=keep).build(tensors, None).macs() == kept
    if any(values):
        energy = Fraction(sum(v * v for v in expected), sum(v * v for v in values))
        assert tensors["energy"].item() == pytest.approx(float(energy))


@pytest.mark.parametrize("keep", [0.4, 0.5, 0.6, 1.0])
def test_exactly_the_asked_fraction_is_kept_unchanged(keep):
    weight = torch.randn(37, 111)
    sparse = Sparse(keep=keep).approximate(weight)["weight"]
    mask = sparse != 0
    assert mask.sum() == round(keep * 37 * 111)
    assert torch.equal(sparse[mask], weight[mask])
    if keep < 1:
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, 40.0, float("nan")])
def test_a_fraction_that_is_none_is_refused(keep):
    with pytest.raises(LodaError, match=f"keep={keep}"):
        Sparse(keep=keep)


def test_a_rank_that_is_none_is_refused():
    with pytest.raises(LodaError, match="rank=0 must be at least 1"):
        LowRank(rank=0)


# Kept energy of real attention weights, measured in float32 apart from this code: layers 0, 5 and 11 of GPT-2 small
# (README of the weights). The paper's Figure 2 shows the first layer of GPT-2 medium, which is not at hand.
LAYERS = (0, 5, 11)
TOP_225 = (0.735, 0.704, 0.647)
TOP_300 = (0.822, 0.798, 0.748)
LARGEST_40 = (0.954, 0.888, 0.889)
LARGEST_60 = (0.990, 0.970, 0.970)


@pytest.fixture(scope="module")
def trained_weights(shared):
    tensors = load_file(shared / "weights" / "gpt2_small_c_attn_h0_h5_h11.safetensors")
    return [tensors[f"h.{layer}.attn.c_attn.weight"].float() for layer in LAYERS]


@pytest.mark.parametrize(("keep", "expected"), [(0.4, LARGEST_40), (0.6, LARGEST_60)])
def test_energy_of_the_largest_entries_of_trained_weights(trained_weights, keep, expected):
    found = [Sparse(keep=keep).approximate(weight)["energy"].item() for weight in trained_weights]
    assert found == pytest.approx(expected, abs=6e-4)


def test_energy_of_the_largest_singular_values_of_a_trained_weight(trained_weights):
    factors = LowRank(rank=300).approximate(trained_weights[0])
    assert factors["energy"].item() == pytest.approx(TOP_300[0], abs=6e-4)
    # Column i of W_A has the squared norm sigma_i, so one decomposition tells the energy of every smaller rank.
    squares = factors["W_A"].double().norm(dim=0).pow(4)
    energy_225 = squares[:225].sum() / squares.sum() * factors["energy"]
    assert energy_225.item() == pytest.approx(TOP_225[0], abs=6e-4)
