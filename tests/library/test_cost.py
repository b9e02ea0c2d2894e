"""The costs that the paper prints, counted on GPT-2 medium itself, which needs no weights for it."""

import copy
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

import loda
from loda.adapters import (
    FineTune,
    FineTuneTop2,
    Houlsby,
    Lin,
    LoDA,
    LoDAPlus,
    LoRA,
    Prefix,
)
from loda.approx import Dense, LowRank, Sparse
from loda.model import fold
from tests.library.models import ADAPTERS, APPROXIMATIONS, WIDE, tiny_gpt2, weight_of, wide_gpt2

BASE_MACS = 75_497_472  # 24 layers x 3 x 1024^2


@pytest.fixture(scope="module")
def medium():
    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16))


def cost(medium, adapter, approx=None):
    model = copy.deepcopy(medium)
    return loda.cost(loda.inject(model, loda.LodaConfig(adapter, approx or Dense())))


# Table 2 of the paper: millions of multiply-accumulates per token for Q, K and V, printed with one decimal.


# Trained parameters of the baselines and the multiply-accumulates that they add for each token. d = 1024, 24 blocks
# of 12d^2 + 13d, 50257 tokens, 1024 positions. The paper prints 354.92M (a slip), 25.19M, 0.37M, 11.09M and for
# Adapter^H a number that no r gives; Li & Liang's prefix of 5 is 0.25M, the 0.35M of the paper no whole length.
BASELINES = [
    (FineTune(), 354_823_168, 0),  # 50257 d + 1024 d + 24 (12d^2 + 13d) + 2d
    (FineTuneTop2(), 25_192_448, 0),  # 2 (12d^2 + 13d)
    (Lin(r=6), 368_784, 24 * 2 * 1024 * 6),  # 24 (2dr + r + d + 2d)
    (Lin(r=224), 11_089_152, 24 * 2 * 1024 * 224),
    (Houlsby(r=112), 11_064_576, 48 * 2 * 1024 * 112),  # 48 (2dr + r + d)
    (Prefix(length=5), 245_760, 24 * 2 * 5 * 1024),  # 24 * 2 * 5d
]


@pytest.mark.parametrize(("adapter", "parameters", "added"), BASELINES)
def test_the_baselines_of_table_1(medium, adapter, parameters, added):
    found = cost(medium, adapter)
    assert found.trainable_parameters == parameters
    # Nothing of theirs is in Q, K and V; the whole model says what they cost.
    assert found.macs_per_token == found.base_macs_per_token == BASE_MACS
    assert found.model_macs_per_token == found.base_model_macs_per_token + added
    assert found.merged_macs_per_token == (None if added else BASE_MACS)


def test_a_prefix_is_trained_through_the_mlp_of_li_and_liang(medium):
    # An embedding 5 x 1024, then 1024 -> 512 -> 24 x 2 x 1024: 25.74M in their paper.
    model = loda.inject(copy.deepcopy(medium), loda.LodaConfig(Prefix()))
    trained = sum(p.numel() for p in loda.trainable_parameters(model).values())
    assert trained == 5 * 1024 + 1025 * 512 + 513 * 49_152 == 25_744_896


def test_the_whole_model_keeps_the_savings_in_proportion(medium):
    # 12 d^2 for each of 24 blocks, and the vocabulary head.
    found = cost(medium, LoDAPlus(), LowRank(rank=300))
    assert found.base_model_macs_per_token == 24 * 12 * 1024**2 + 50_257 * 1024 == 353_453_056
    assert found.base_macs_per_token / found.macs_per_token == pytest.approx(2.51, abs=0.005)
    assert 1 / found.model_share == pytest.approx(1.15, abs=0.005)


@pytest.mark.parametrize("approx", [Dense(), LowRank(rank=8)], ids=repr)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_macs_of_the_whole_model_are_those_that_run(adapter, approx):
    # Counted by torch for a single token, which attends to itself alone: 2d more for each of the 2 layers.
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(ADAPTERS[adapter], approx))
    model.set_attn_implementation("eager")
    fold(model)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, dtype=torch.long))
    found = loda.cost(model)
    assert 2 * (found.model_macs_per_token + 2 * 2 * 32) == counter.get_total_flops()
    # 12 d^2 for each of 2 blocks of width 32, and a head of 64 tokens
    assert found.base_model_macs_per_token == 2 * 12 * 32**2 + 64 * 32


@pytest.mark.parametrize("r", [2, 16, 256])
def test_parameters_for_bottlenecks_of_table_3(medium, r):
    # Section 3.1: 2rdL for LoRA and 2(rd + r^2)L for the proposed methods, L = 48 adapted matrices.
    assert cost(medium, LoRA(r=r)).trainable_parameters == 2 * r * 1024 * 48
    for adapter in (LoDA(r=r), LoDAPlus(r=r)):
        assert cost(medium, adapter).trainable_parameters == 2 * (r * 1024 + r**2) * 48


@pytest.mark.parametrize("approx", [Dense(), LowRank(rank=8), Sparse(keep=0.5)], ids=repr)
def test_energy_is_the_mean_over_the_layers(approx):
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA(), approx))
    weights = [block.attn.c_attn.weight for block in tiny_gpt2().transformer.h]
    kept = [
        (weight_of(block.attn.c_attn.base).square().sum() / weight.square().sum()).item()
        for block, weight in zip(model.transformer.h, weights, strict=True)
    ]
    assert loda.cost(model).energy == pytest.approx(sum(kept) / 2, rel=1e-5)


@pytest.mark.parametrize("approx", APPROXIMATIONS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_pair_of_parts_can_be_counted_without_weights(adapter, approx):
    found = cost(wide_gpt2().to("meta"), ADAPTERS[adapter], APPROXIMATIONS[approx])
    assert found.base_macs_per_token == 3 * WIDE**2
    assert found.macs_per_token > 0
    assert found.trainable_parameters > 0 or adapter == "none"
    assert math.isnan(found.energy)
