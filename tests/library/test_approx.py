"""What every approximation promises, by discovery, and what the low-rank and the sparse one are."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

import loda
from loda.adapters import LoDAPlus, NoAdapter
from loda.approx import NM, BlockSparse, Columns, LowRank, Monarch, Quantized, Sparse
from loda.errors import LodaError
from loda.projection import projections
from tests.ecosystem.models import tiny
from tests.library.models import APPROXIMATIONS, TOKENS, WIDE, logits, perturb, tiny_gpt2, weight_of, wide_gpt2

every_approximation = pytest.mark.parametrize("name", APPROXIMATIONS)
WHOLE = ("dense", "monarch")  # which are not cut into parts: what needs no cut, and pieces that a cut would go through
BIAS = torch.randn(3 * WIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def weight():
    return torch.randn(WIDE, 3 * WIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def bases(weight):
    """Every approximation of `weight`, by name."""
    return {name: config.approximate(weight, BIAS) for name, config in APPROXIMATIONS.items()}


@pytest.fixture
def base(name, bases):
    return bases[name]


def test_the_source_weight_is_left_alone(weight, bases):
    assert torch.equal(weight, torch.randn(WIDE, 3 * WIDE, generator=torch.Generator().manual_seed(0)))


@every_approximation
def test_the_map_is_affine_with_and_without_bias(name, base, weight):
    x = torch.randn(2, 3, WIDE)
    torch.testing.assert_close(base(x), x @ weight_of(base) + BIAS, rtol=1e-4, atol=1e-4)
    without = APPROXIMATIONS[name].approximate(weight, None)
    torch.testing.assert_close(without(x), base(x) - BIAS, rtol=1e-4, atol=1e-4)


@every_approximation
def test_the_energy_is_the_kept_part_of_the_squared_norm(name, base, weight):
    lost = (weight - weight_of(base)).double().square().sum() / weight.double().square().sum()
    assert float(base.energy) == pytest.approx(1 - lost.item(), rel=1e-5)
    assert 0 < base.energy <= 1


@every_approximation
def test_macs_are_no_more_than_run(name, base):
    # Fewer where a sparse engine would skip the zeros that a dense kernel multiplies.
    with FlopCounterMode(display=False) as counter:
        base(torch.randn(1, WIDE))
    assert 0 < base.macs() <= counter.get_total_flops() // 2


@every_approximation
def test_nothing_trains_and_gradients_pass_to_the_input(name, base):
    assert not any(parameter.requires_grad for parameter in base.parameters())
    x = torch.randn(2, WIDE, requires_grad=True)
    base(x).sum().backward()
    torch.testing.assert_close(x.grad, weight_of(base).sum(1).expand(2, WIDE), rtol=1e-4, atol=1e-3)


@every_approximation
def test_a_stored_state_dict_makes_the_same_projection(name, base):
    # On the meta device an approximation costs nothing; it has the same names, shapes and costs.
    config, stored = APPROXIMATIONS[name], base.state_dict()
    # Contiguous, or the tensors would be laid out otherwise after loading and products be rounded otherwise.
    assert all(tensor.is_contiguous() for tensor in stored.values())
    again = config.approximate(torch.empty(WIDE, 3 * WIDE, device="meta"), torch.empty(3 * WIDE, device="meta"))
    assert again.macs() == base.macs()
    again.load_state_dict(stored, strict=True, assign=True)
    x = torch.randn(2, WIDE)
    assert torch.equal(base(x), again(x))
    assert (base.energy, base.macs()) == (again.energy, again.macs())


@pytest.mark.parametrize("name", [name for name, base in APPROXIMATIONS.items() if name not in WHOLE])
def test_the_parts_of_an_approximation_stand_side_by_side(name, weight):
    # Models with three modules for q, k and v hold the approximation of [W_q, W_k, W_v] like this.
    config, widths = APPROXIMATIONS[name], [WIDE, 64, 2 * WIDE - 64]
    whole, biases = config.approximate(weight, None), [torch.randn(WIDE), None, None]
    parts = whole.split(widths, biases)
    assert [weight_of(part).shape[1] for part in parts] == widths
    torch.testing.assert_close(torch.cat([weight_of(part) for part in parts], dim=1), weight_of(whole))
    assert torch.equal(parts[0].bias, biases[0])
    empty = config.approximate(torch.empty(WIDE, 3 * WIDE, device="meta"), None).split(widths, [None] * 3)
    assert sum(part.macs() for part in parts) == whole.macs()
    assert sum(part.macs() for part in empty) == pytest.approx(whole.macs(), abs=len(parts))


@pytest.mark.parametrize("approx", [LowRank(rank=8), Sparse(keep=0.5)], ids=repr)
def test_the_model_runs_on_the_approximated_weight(approx):
    # k changes as well: the approximation is of the whole [W_q, W_k, W_v] (the paper's footnote 2).
    model, base = loda.inject(tiny_gpt2(), loda.LodaConfig(NoAdapter(), approx)), tiny_gpt2()
    for name, projection in projections(model).items():
        original, found = base.get_submodule(name).weight, weight_of(projection.base).detach()
        assert (found != original).view(32, 3, 32).any(dim=2).all(dim=1).any()
        original.data = found
    torch.testing.assert_close(logits(model), logits(base), rtol=1e-4, atol=1e-4)


# Low rank, calibrated.


def inputs(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    """Inputs (tokens, width) whose directions have very different lengths, as those of a trained model."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -3, width, dtype=torch.float64)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(tokens, width, generator=generator, dtype=torch.float64) * scales @ mix


def output_error(x, weight, approximated) -> float:
    return float((x @ (weight - approximated)).square().sum())


def fitted(x, weight, rank, seed) -> torch.Tensor:
    """The product that alternating least squares over the outputs ends with, from a random start: a brute force."""
    up = torch.randn(rank, weight.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for _ in range(500):
        down = weight @ torch.linalg.pinv(up)  # the best for any second moment of full rank
        up = torch.linalg.lstsq(x @ down, x @ weight).solution
    return down @ up


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_calibrated_factors_are_the_optimum_for_the_outputs(rank):
    x, weight = inputs(200, 8), torch.randn(8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    config = LowRank(rank=rank, calibration=1, damping=1e-12)
    found = config.approximate(weight, None, x.T @ x / len(x))
    error = output_error(x, weight, weight_of(found))
    tail = torch.linalg.svdvals(x @ weight)[rank:].square().sum()
    assert error == pytest.approx(float(tail), rel=1e-6)
    for seed in range(5):
        assert error <= output_error(x, weight, fitted(x, weight, rank, seed)) * (1 + 1e-6)
    plain = LowRank(rank=rank).approximate(weight, None)
    assert error < output_error(x, weight, weight_of(plain))
    assert found.energy < plain.energy


def test_inputs_of_equal_length_in_all_directions_change_nothing():
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    calibrated = LowRank(rank=3, calibration=1).approximate(weight, None, 5 * torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(weight_of(calibrated), weight_of(LowRank(rank=3).approximate(weight, None)))


def test_a_calibrated_model_computes_what_its_projections_say_and_is_saved_with_them(tmp_path):
    config = loda.LodaConfig(LoDAPlus(), LowRank(rank=8, calibration=2), targets="all")
    moments = loda.second_moments(tiny_gpt2(), config, TOKENS.split(1))
    assert {name.rpartition("h.1.")[2] for name in moments if "h.1." in name} == {
        *("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    given = loda.approximate(tiny_gpt2(), config, moments)
    model = perturb(loda.inject(tiny_gpt2(), config, given))
    assert {name.rpartition(".")[2] for name, found in projections(model).items() if found.adapters} == {"c_attn"}
    assert loda.cost(model).model_macs_per_token < loda.cost(model).base_model_macs_per_token
    loda.save_pretrained(model, tmp_path, with_approximation=True)
    assert torch.equal(logits(loda.from_pretrained(tiny_gpt2(), tmp_path)), logits(model))
    loda.save_pretrained(model, tmp_path / "without")
    with pytest.raises(LodaError, match=r"calibration=2 needs the inputs: .* or load a stored approximation"):
        loda.from_pretrained(tiny_gpt2(), tmp_path / "without")


def test_moments_are_those_of_the_inputs_and_do_not_depend_on_batches():
    config, model, seen = loda.LodaConfig(NoAdapter(), LowRank(rank=8, calibration=2)), tiny_gpt2(), []
    hook = model.transformer.h[1].attn.c_attn.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    moments = loda.second_moments(model, config, [TOKENS])
    hook.remove()
    (x,) = seen
    expected = x.flatten(0, 1).double()
    torch.testing.assert_close(
        moments["transformer.h.1.attn.c_attn"], expected.T @ expected / len(expected), rtol=1e-5, atol=1e-6
    )
    again = loda.second_moments(model, config, TOKENS.split(1))
    for name, moment in moments.items():
        torch.testing.assert_close(again[name], moment, rtol=1e-4, atol=1e-5)


def test_moments_that_do_not_fit_are_refused():
    plain, calibrated = (loda.LodaConfig(NoAdapter(), LowRank(rank=8, calibration=n)) for n in (0, 2))
    moments = loda.second_moments(tiny_gpt2(), calibrated, [TOKENS])
    with pytest.raises(LodaError, match="has no use for moments"):
        loda.approximate(tiny_gpt2(), plain, moments)
    with pytest.raises(LodaError, match="the moments are those of other modules"):
        loda.approximate(tiny_gpt2(), calibrated, dict(list(moments.items())[:1]))
    with pytest.raises(LodaError, match="leaves the moment of the inputs singular"):
        loda.approximate(tiny_gpt2(), calibrated, {name: 0 * moment for name, moment in moments.items()})


def test_a_damping_that_nothing_reads_is_refused():
    with pytest.raises(LodaError, match=r"damping=0.1 has no effect without calibration"):
        LowRank(rank=8, damping=0.1)


CALIBRATED = {
    name: replace(config, calibration=2) for name, config in APPROXIMATIONS.items() if hasattr(config, "calibration")
}


@pytest.mark.parametrize("name", CALIBRATED)
def test_everything_that_can_be_calibrated_is_put_into_a_model_by_its_moments(name, tmp_path):
    config = loda.LodaConfig(LoDAPlus(), CALIBRATED[name], targets="all")
    moments = loda.second_moments(wide_gpt2(), config, TOKENS.split(1))
    given = loda.approximate(wide_gpt2(), config, moments)
    plain = loda.approximate(wide_gpt2(), replace(config, approx=replace(config.approx, calibration=0)))
    assert any(not torch.equal(given[key], plain[key]) for key in plain)
    model = perturb(loda.inject(wide_gpt2(), config, given))
    loda.save_pretrained(model, tmp_path, with_approximation=True)
    assert torch.equal(logits(loda.from_pretrained(wide_gpt2(), tmp_path)), logits(model))


JOINT = [LowRank(rank=4), Sparse(keep=0.5), Columns(keep=0.5), Quantized(correction=3), BlockSparse(block=4), NM()]


@pytest.mark.parametrize("approx", JOINT, ids=repr)
def test_a_stored_joint_approximation_is_the_one_that_is_computed(approx):
    config = loda.LodaConfig(LoDAPlus(), approx, targets="all", joint=True)
    given = loda.approximate(tiny("llama"), config)
    computed, stored = (loda.inject(tiny("llama"), config, each) for each in (None, given))
    assert torch.equal(logits(perturb(computed)), logits(perturb(stored)))
    assert loda.cost(computed) == loda.cost(stored)


@pytest.mark.parametrize("damping", [0.0, -1.0, 0.5])
def test_a_damping_of_columns_that_means_nothing_is_refused(damping):
    with pytest.raises(LodaError, match=f"damping={damping} must be more than 0, and has no effect without"):
        Columns(damping=damping)
    moment = torch.zeros(8, 8, dtype=torch.float64)
    with pytest.raises(LodaError, match="leaves the moment of the inputs singular"):
        Columns(keep=0.5, calibration=1).approximate(torch.randn(8, 12), None, moment)


# Other structures.


def test_the_blocks_of_the_largest_norm_are_kept_and_hold_the_most_energy():
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base = BlockSparse(keep=0.5, block=4).approximate(weight, None)
    norms = {(i, j): weight[i : i + 4, j : j + 4].norm() for i in (0, 4) for j in (0, 4, 8)}
    largest = sorted(norms, key=lambda place: -norms[place])[:3]
    expected = torch.zeros_like(weight)
    for i, j in largest:
        expected[i : i + 4, j : j + 4] = weight[i : i + 4, j : j + 4]
    assert torch.equal(base.weight, expected)
    assert base.macs() == 3 * 16
    energies = [sum(norms[place] ** 2 for place in chosen) for chosen in itertools.combinations(norms, 3)]
    assert float(base.energy) == pytest.approx(float(max(energies) / weight.square().sum()), rel=1e-6)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_n_of_every_m_inputs_are_kept_and_they_are_the_largest(n, groups, d_out, seed):
    m = 4
    weight = torch.randn(m * groups, d_out, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kept = NM(n=n, m=m).approximate(weight, None).weight
    assert ((kept == 0) | (kept == weight)).all()
    tiles = weight.unflatten(0, (groups, m))
    assert torch.equal((kept != 0).unflatten(0, (groups, m)).sum(1), torch.full((groups, d_out), n))
    largest = tiles.abs().sort(1, descending=True).values[:, :n]
    assert torch.equal(kept.unflatten(0, (groups, m)).abs().sort(1, descending=True).values[:, :n], largest)


def test_a_monarch_is_the_best_of_its_form():
    # One block is the truncated decomposition; otherwise every piece is, which no other choice can beat.
    weight = torch.randn(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = Monarch(blocks=1, rank=3).approximate(weight, None)
    torch.testing.assert_close(weight_of(one), weight_of(LowRank(rank=3).approximate(weight, None)))
    base = Monarch(blocks=4, rank=2).approximate(weight, None)
    tails = [torch.linalg.svdvals(weight[i : i + 3, j : j + 5])[2:] for i in range(0, 12, 3) for j in range(0, 20, 5)]
    lost = sum(float(tail.square().sum()) for tail in tails)
    assert float((weight - weight_of(base)).square().sum()) == pytest.approx(lost, rel=1e-9)
    assert base.macs() == 4 * 2 * (12 + 20)


def test_kept_columns_are_fitted_to_the_outputs():
    x, weight = inputs(200, 8), torch.randn(8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    base = Columns(keep=0.5, calibration=1, damping=1e-12).approximate(weight, None, x.T @ x / len(x))
    fitted_to_them = torch.linalg.lstsq(x[:, base.index], x @ weight).solution
    torch.testing.assert_close(base.kept, fitted_to_them, rtol=1e-6, atol=1e-6)
    lengths = weight.norm(dim=1) * x.square().mean(0).sqrt()  # of what an input adds to the outputs
    assert (
        base.index.tolist()
        == sorted(lengths.topk(4).indices.tolist())
        != sorted(weight.norm(dim=1).topk(4).indices.tolist())
    )
    plain = Columns(keep=0.5).approximate(weight, None)
    assert plain.index.tolist() == sorted(weight.norm(dim=1).topk(4).indices.tolist())
    assert torch.equal(plain.kept, weight[plain.index])
    assert output_error(x, weight, weight_of(base)) < output_error(x, weight, weight_of(plain))


def test_a_calibrated_mask_weighs_entries_with_the_length_of_their_inputs():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    lengths = torch.tensor([100.0, 1.0, 10.0, 1.0], dtype=torch.float64)
    base = Sparse(keep=0.5, calibration=1).approximate(weight, None, torch.diag(lengths.square()))
    assert base.weight.tolist() == [[1, 2], [0, 0], [5, 6], [0, 0]]  # two of four in every column


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_int8_weight_is_off_by_half_a_step_of_its_output(dtype):
    weight = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    base = Quantized().approximate(weight, None)
    assert base.codes.dtype == torch.int8
    step = weight.float().abs().amax(0) / 127
    slack = 1.01 if dtype == torch.float32 else 4  # the product of scale and code is rounded to bfloat16 too
    assert ((weight_of(base).float() - weight.float()).abs() <= slack * step / 2).all()


def test_nf4_is_that_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(24, 128, generator=torch.Generator().manual_seed(0))
    theirs = functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type="nf4", blocksize=64))
    torch.testing.assert_close(
        weight_of(Quantized(dtype="nf4").approximate(weight, None)), theirs, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_a_correction_is_the_best_of_its_rank_for_what_rounding_loses(dtype):
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = Quantized(dtype=dtype).approximate(weight, None)
    tail = torch.linalg.svdvals(weight - weight_of(rounded))[4:].square().sum()
    corrected = Quantized(dtype=dtype, correction=4).approximate(weight, None)
    assert float((weight - weight_of(corrected)).square().sum()) == pytest.approx(float(tail), rel=1e-6)
    assert rounded.energy < corrected.energy <= 1
    assert corrected.macs() == rounded.macs() + 4 * (24 + 64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BlockSparse(block=5), "block=5 does not divide the 32 x 96"),
        (BlockSparse(keep=0.01, block=32), "keeps no block"),
        (NM(m=5), "m=5 does not divide the 32 inputs"),
        (Columns(keep=0.01), "keeps none of the 32 inputs"),
        (Monarch(blocks=5), "blocks=5 does not divide"),
        (Monarch(blocks=4, rank=9), "rank=9 exceeds the 8 of a piece"),
        (Quantized(correction=33), "correction=33 exceeds"),
    ],
    ids=repr,
)
def test_a_structure_that_does_not_fit_is_refused_in_a_sentence(config, message):
    with pytest.raises(LodaError, match=message):
        loda.inject(tiny_gpt2(), loda.LodaConfig(NoAdapter(), config))


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
    base = LowRank(rank=rank).approximate(torch.from_numpy(weight), None)
    product = (base.W_A @ base.W_B).numpy()
    spectrum = np.linalg.svd(weight, compute_uv=False)
    error = np.linalg.norm(weight - product) ** 2
    assert error == pytest.approx((spectrum[rank:] ** 2).sum(), rel=1e-9, abs=1e-12)
    assert base.energy.item() == pytest.approx((spectrum[:rank] ** 2).sum() / (spectrum**2).sum(), rel=1e-9)
    assert np.linalg.matrix_rank(product) == rank
    assert base.W_A.shape == (rows, rank)
    assert base.W_B.shape == (rank, columns)


def test_the_factors_share_the_singular_values_and_have_fixed_signs():
    weight = torch.randn(20, 60, dtype=torch.float64)
    factors = LowRank(rank=7).approximate(weight, None)
    spectrum = torch.linalg.svdvals(weight)[:7]
    torch.testing.assert_close(factors.W_A.norm(dim=0).square(), spectrum)
    torch.testing.assert_close(factors.W_B.norm(dim=1).square(), spectrum)
    largest = factors.W_A.gather(0, factors.W_A.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    mirrored = LowRank(rank=7).approximate(-weight, None)
    assert torch.allclose(mirrored.W_A, factors.W_A)
    torch.testing.assert_close(mirrored.W_B, -factors.W_B)


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
            Sparse(keep=keep).approximate(weight, None)
        return
    base = Sparse(keep=keep).approximate(weight, None)
    first_largest = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:kept]
    expected = [value if i in first_largest else 0 for i, value in enumerate(values)]
    assert base.weight.tolist() == [expected]
    assert base.macs() == kept
    if any(values):
        energy = Fraction(sum(v * v for v in expected), sum(v * v for v in values))
        assert base.energy.item() == pytest.approx(float(energy))


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, 40.0, float("nan")])
def test_a_fraction_that_is_none_is_refused(keep):
    with pytest.raises(LodaError, match=f"keep={keep}"):
        Sparse(keep=keep)


# Kept energy of real attention weights, measured in float32 apart from this code: layers 0, 5 and 11 of GPT-2 small
# (README of the weights). The paper's Figure 2 shows the first layer of GPT-2 medium, which is not at hand.
LAYERS = (0, 5, 11)
TOP_225, TOP_300 = 0.735, 0.822  # of layer 0
LARGEST_40 = (0.954, 0.888, 0.889)
LARGEST_60 = (0.990, 0.970, 0.970)


@pytest.fixture(scope="module")
def trained_weights(shared):
    tensors = load_file(shared / "weights" / "gpt2_small_c_attn_h0_h5_h11.safetensors")
    return [tensors[f"h.{layer}.attn.c_attn.weight"].float() for layer in LAYERS]


@pytest.mark.parametrize(("keep", "expected"), [(0.4, LARGEST_40), (0.6, LARGEST_60)])
def test_energy_of_the_largest_entries_of_trained_weights(trained_weights, keep, expected):
    found = [Sparse(keep=keep).approximate(weight, None).energy.item() for weight in trained_weights]
    assert found == pytest.approx(expected, abs=6e-4)


def test_energy_of_the_largest_singular_values_of_a_trained_weight(trained_weights):
    factors = LowRank(rank=300).approximate(trained_weights[0], None)
    assert factors.energy.item() == pytest.approx(TOP_300, abs=6e-4)
    # Column i of W_A has the squared norm sigma_i, so one decomposition tells the energy of every smaller rank.
    squares = factors.W_A.double().norm(dim=0).pow(4)
    energy_225 = squares[:225].sum() / squares.sum() * factors.energy
    assert energy_225.item() == pytest.approx(TOP_225, abs=6e-4)
