"""The costs that the paper prints, counted on GPT-2 medium itself, which needs no weights for it."""

import copy
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import loda
from loda.adapters import FullRank, LoDA, LoDAPlus, LoRA, NoAdapter
from loda.approx import Dense, LowRank, Sparse
from loda.config import part_name
from tests.unit.models import ADAPTERS, APPROXIMATIONS, WIDE, tiny_gpt2, wide_gpt2

BASE_MACS = 75_497_472  # 24 layers x 3 x 1024^2
MI = 2**20  # the paper's "M" of its own parameter counts


@pytest.fixture(scope="module")
def medium():
    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16))


def cost(medium, adapter, approx=None):
    model = copy.deepcopy(medium)
    return loda.cost(loda.inject(model, loda.LodaConfig(adapter, approx or Dense())))


# Table 2 of the paper: millions of multiply-accumulates per token for Q, K and V, printed with one decimal.
TABLE_2 = [
    (LoDA(), Dense(), 75.9),
    (LoDA(), Sparse(keep=0.6), 45.7),
    (LoDA(), Sparse(keep=0.5), 38.1),
    (LoDA(), LowRank(rank=500), 49.5),
    (LoDA(), LowRank(rank=400), 39.7),
    (LoDA(), LowRank(rank=300), 29.9),
    (LoDAPlus(), Dense(), 76.1),
    (LoDAPlus(), Sparse(keep=0.6), 45.9),
    (LoDAPlus(), Sparse(keep=0.5), 38.3),
    (LoDAPlus(), LowRank(rank=500), 49.7),
    (LoDAPlus(), LowRank(rank=400), 39.9),
    (LoDAPlus(), LowRank(rank=300), 30.1),
]


@pytest.mark.parametrize(("adapter", "approx", "printed"), TABLE_2)
def test_macs_of_table_2(medium, adapter, approx, printed):
    found = cost(medium, adapter, approx)
    assert round(found.macs_per_token / 1e6, 1) == printed
    assert found.merged_macs_per_token is None
    assert found.base_macs_per_token == BASE_MACS
    assert found.trainable_parameters == 394_752  # 2(rd + r^2)L with r = 4, d = 1024, L = 48; 0.38 Mi in the table


def test_macs_of_lora_in_table_2(medium):
    found = cost(medium, LoRA())
    assert round(found.macs_per_token / 1e6, 1) == 75.9
    assert round(found.merged_macs_per_token / 1e6, 1) == 75.5
    assert found.trainable_parameters == 393_216  # 2rdL
    assert found.trainable_parameters / MI == 0.375


def test_macs_of_full_rank_in_table_2(medium):
    found = cost(medium, FullRank())
    assert round(found.merged_macs_per_token / 1e6, 1) == 75.5
    assert found.trainable_parameters == 50_331_648  # 2 d^2 for each of 24 layers; 48.00 Mi in the table
    assert found.trainable_parameters / MI == 48


def test_the_base_costs_what_its_projections_cost(medium):
    found = cost(medium, NoAdapter())
    assert (found.trainable_parameters, found.macs_per_token) == (0, BASE_MACS)
    assert found.macs_per_token == found.base_macs_per_token == found.merged_macs_per_token


@pytest.mark.parametrize("r", [2, 16, 256])
def test_parameters_for_bottlenecks_of_table_3(medium, r):
    # Section 3.1: 2rdL for LoRA and 2(rd + r^2)L for the proposed methods, L = 48 adapted matrices.
    assert cost(medium, LoRA(r=r)).trainable_parameters == 2 * r * 1024 * 48
    for adapter in (LoDA(r=r), LoDAPlus(r=r)):
        assert cost(medium, adapter).trainable_parameters == 2 * (r * 1024 + r**2) * 48


def test_the_approximation_is_smaller_than_the_base_as_long_as_r_is_below_three_quarters_of_d(medium):
    # Section 3.2: 4Rd < 3d^2 exactly for R < 768.
    assert cost(medium, NoAdapter(), LowRank(rank=767)).macs_per_token < BASE_MACS
    assert cost(medium, NoAdapter(), LowRank(rank=768)).macs_per_token == BASE_MACS


def test_energy_is_unknown_without_weights(medium):
    assert math.isnan(cost(medium, LoRA()).energy)


@pytest.mark.parametrize("approx", [Dense(), LowRank(rank=8), Sparse(keep=0.5)], ids=part_name)
def test_energy_is_the_mean_over_the_layers(approx):
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA(), approx))
    weights = [block.attn.c_attn.weight for block in tiny_gpt2().transformer.h]
    kept = [
        (block.attn.c_attn.frozen.dense().square().sum() / weight.square().sum()).item()
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
