"""What every adapter promises. The adapters are discovered: a new file in loda/adapters is held to this at once."""

import copy
import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import loda
from loda.adapters.bottleneck import SliceAdapterConfig
from loda.adapters.insertion import insertions
from loda.approx import Dense, LowRank
from loda.errors import LodaError
from loda.interfaces import LinearAdapter
from loda.projection import projections
from tests.library.models import (
    ADAPTERS,
    TOKENS,
    assert_a_cache_changes_nothing,
    assert_gradients_reach_what_trains,
    logits,
    perturb,
    tiny_gpt2,
    train,
    untouched,
)

# Adapters that stand beside slices of a projection; the others attach in their own way.
BESIDE = {name: config for name, config in ADAPTERS.items() if isinstance(config, SliceAdapterConfig)}
TRAINED = {name: config for name, config in ADAPTERS.items() if name != "none"}


def is_a_map(config: object) -> bool:
    """Whether the method's modules, if it adds any, map an input; a prefix has none, and cannot be the zero map."""
    return config.name != "prefix"


def maps(config: object) -> list[torch.nn.Module]:
    """The modules that the method adds to a model; a fine-tuning adds none."""
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(config))
    beside = [adapter for projection in projections(model).values() for adapter in projection.adapters.values()]
    return [*beside, *insertions(model).values()]


MAPS = {name: config for name, config in ADAPTERS.items() if is_a_map(config) and maps(config)}

every_adapter = pytest.mark.parametrize("config", ADAPTERS.values(), ids=ADAPTERS)
every_trained_adapter = pytest.mark.parametrize("config", TRAINED.values(), ids=TRAINED)
every_adapter_beside = pytest.mark.parametrize("config", BESIDE.values(), ids=BESIDE)


def test_the_methods_of_the_paper_are_discovered():
    assert set(BESIDE) >= {"lora", "loda", "loda_plus", "full_rank"}
    assert set(MAPS) >= {*BESIDE, "lin", "houlsby"}
    assert set(ADAPTERS) >= {*MAPS, "none", "finetune", "finetune_top2", "prefix"}


@every_adapter
def test_an_injected_model_starts_as_the_base_unless_its_adapter_is_no_map(config):
    model = tiny_gpt2()
    before = logits(model)
    loda.inject(model, loda.LodaConfig(adapter=config))
    assert torch.equal(logits(model), before) == is_a_map(config)


@every_adapter
def test_a_cache_and_left_padding_change_nothing(config):
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(adapter=config)))
    expected = logits(model)
    mask = torch.ones_like(TOKENS)
    padded = torch.nn.functional.pad(TOKENS, (3, 0), value=7)
    padded_mask = torch.nn.functional.pad(mask, (3, 0))
    positions = (padded_mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found, cache = [], None
        for part in ([0, 5], [5, 8], [8, 9], [9, 12]):
            out = model(TOKENS[:, slice(*part)], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
        shifted = model(padded, attention_mask=padded_mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shifted, expected, rtol=1e-5, atol=1e-5)


@every_adapter
def test_generating_with_a_cache_gives_what_generating_without_one_gives(config):
    assert_a_cache_changes_nothing(perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(adapter=config))), beams=3)


@every_trained_adapter
def test_gradients_reach_every_adapter_parameter_and_no_other(config):
    assert_gradients_reach_what_trains(perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(adapter=config))))


@every_trained_adapter
@pytest.mark.parametrize("approx", [Dense(), LowRank(rank=8)], ids=repr)
def test_a_copy_is_a_model_of_its_own(config, approx):
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(config, approx)))
    outputs = logits(model)
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied), outputs)
    assert loda.cost(copied) == loda.cost(model)
    train(copied)
    assert not torch.equal(logits(copied), outputs)
    assert torch.equal(logits(model), outputs)
    loda.unload(model)
    assert torch.equal(logits(loda.unload(copied)), logits(tiny_gpt2()))


@pytest.mark.parametrize("config", MAPS.values(), ids=MAPS)
def test_an_added_module_is_a_zero_map_of_single_tokens_that_costs_what_it_says(config):
    for adapter in maps(config):
        assert isinstance(adapter.double(), loda.Adapter)
        x = torch.randn(2, 5, 32, dtype=torch.float64)
        assert adapter(x).shape == x.shape
        assert not adapter(x).any()
        assert not adapter(x[:, :0]).numel()
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter)
        if isinstance(adapter, LinearAdapter) and adapter.weight() is not None:
            torch.testing.assert_close(adapter(x), x @ adapter.weight())
        alone = torch.stack([torch.stack([adapter(token) for token in row]) for row in x])
        torch.testing.assert_close(adapter(x), alone)
        # Counted by torch while it runs: one multiply-accumulate is two operations.
        with FlopCounterMode(display=False) as counter:
            adapter(x)
        assert adapter.macs() * 10 * 2 == counter.get_total_flops() > 0


@every_adapter_beside
@pytest.mark.parametrize("slices", [("k",), ("q", "k", "v"), ("v", "q")], ids="".join)
def test_only_the_chosen_slices_are_adapted(config, slices):
    # A parameter count cannot tell this from an adapter on the fused projection, which changes the others too.
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(adapter=config, slices=slices)))
    base, x = tiny_gpt2(), torch.randn(4, 32)
    for name, projection in projections(model).items():
        expected, found = base.get_submodule(name)(x).split(32, dim=-1), projection(x).split(32, dim=-1)
        for part, one, other in zip("qkv", expected, found, strict=True):
            assert torch.equal(one, other) == (part not in slices), part


@pytest.mark.parametrize(
    ("dtype", "approx"),
    [(torch.float16, Dense()), (torch.bfloat16, Dense()), (torch.bfloat16, LowRank(rank=8))],
    ids=str,
)
@every_trained_adapter
def test_what_trains_is_fp32_over_a_base_of_half_precision_and_adam_trains_it(config, approx, dtype, tmp_path):
    base = logits(tiny_gpt2().to(dtype))
    model = loda.inject(tiny_gpt2().to(dtype), loda.LodaConfig(config, approx))
    assert {p.dtype for p in loda.trainable_parameters(model).values()} == {torch.float32}
    before = logits(model)
    assert before.dtype == dtype
    assert not (config.name in MAPS and approx == Dense()) or torch.equal(before, base)
    train(model, steps=4)
    assert logits(model).isfinite().all()
    assert not torch.equal(logits(model), before)
    loda.save_pretrained(model, tmp_path)
    assert torch.equal(logits(loda.from_pretrained(tiny_gpt2().to(dtype), tmp_path)), logits(model))
    loda.unload(model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.equal(logits(model), base)


@every_trained_adapter
def test_the_adapter_follows_the_dtype_of_the_base_if_asked(config):
    model = loda.inject(tiny_gpt2().bfloat16(), loda.LodaConfig(adapter=config), autocast_adapter_dtype=False)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    train(model)
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("to", [torch.float16, torch.float32, torch.float64], ids=str)
@every_trained_adapter
def test_a_model_of_half_precision_may_be_cast_and_unloads_in_the_dtype_that_it_has(config, to):
    model = perturb(loda.inject(tiny_gpt2().bfloat16(), loda.LodaConfig(config))).to(to)
    assert logits(model).dtype == to
    loda.unload(model)
    assert torch.equal(logits(model), logits(tiny_gpt2().bfloat16().to(to)))


@pytest.mark.parametrize("name", ["lora", "full_rank", "finetune", "finetune_top2"])
def test_merging_into_half_precision_rounds_what_was_trained(name):
    model = loda.inject(tiny_gpt2().bfloat16(), loda.LodaConfig(ADAPTERS[name]))
    train(model)
    trained = logits(model)
    loda.merge(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(model), trained, rtol=0.05, atol=0.05)
    assert not torch.equal(logits(model), logits(tiny_gpt2().bfloat16()))


@pytest.mark.parametrize("name", ["lora", "loda", "loda_plus"])
def test_independent_adapters_differ_and_reference_layers_start_alike(name):
    # LoRA's code builds one block and copies it, so all its layers start from the same A (q and v differ).
    def starts(init: str) -> list[torch.Tensor]:
        config = dataclasses.replace(ADAPTERS[name], init=init)
        model = loda.inject(tiny_gpt2(), loda.LodaConfig(adapter=config))
        return [torch.stack([p.adapters[s].A for s in ("q", "v")]) for p in projections(model).values()]

    first, second = starts("reference")
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    first, second = starts("independent")
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["lora", "loda", "loda_plus"])
def test_a_starts_uniform_and_scaled_by_the_width(name):
    # kaiming_uniform(a = sqrt(5)) of loralib: +-1/sqrt(d_in), variance 1/(3 d_in).
    a = ADAPTERS[name].build(400, 400).A.detach()
    assert a.abs().max() <= 400**-0.5
    assert a.var().item() == pytest.approx(1 / (3 * 400), rel=0.1)


BOTTLENECKS = pytest.mark.parametrize("config", [ADAPTERS[name] for name in ("lora", "loda", "loda_plus")], ids=repr)


@BOTTLENECKS
def test_patterns_set_r_and_alpha_of_the_modules_that_they_fit(config):
    patterns = {
        "rank_pattern": {r"h\.0\..*": 8, "c_attn": 2},
        "alpha_pattern": {"attn.c_attn": 6, "h.1.attn.c_attn": 1},
    }
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(dataclasses.replace(config, **patterns)))
    found = [(a.A.shape[1], a.scale) for p in projections(model).values() for a in p.adapters.values()]
    assert found == [(8, 6 / 8)] * 2 + [(2, 6 / 2)] * 2  # the first pattern that fits counts


@BOTTLENECKS
def test_rslora_divides_by_the_root_of_r(config):
    assert dataclasses.replace(config, r=9, alpha=6, use_rslora=True).build(12, 12).scale == 2


@BOTTLENECKS
def test_without_initial_zeros_the_adapter_acts_at_once(config):
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(dataclasses.replace(config, init_weights=False)))
    assert not torch.equal(logits(model), logits(tiny_gpt2()))
    assert_gradients_reach_what_trains(model)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"rank_pattern": {"c_atn": 8}}, "rank_pattern={'c_atn': 8}: 'c_atn' fits no adapted module"),
        ({"alpha_pattern": {"c_attn.0": 8}}, "'c_attn.0' fits no adapted module"),
        ({"rank_pattern": {"lm_head": 8}}, "'lm_head' fits no adapted module"),
        ({"alpha_pattern": {"(": 8}}, r"'\(' is no regular expression"),
        ({"rank_pattern": {"c_attn": 0}}, "rank_pattern.c_attn=0: input should be greater than or equal to 1"),
        ({"rank_pattern": {"c_attn": 1}}, "r=1 .* LayerNorm of a single number is zero"),
    ],
    ids=str,
)
def test_a_pattern_that_means_nothing_is_refused(settings, rule):
    model = tiny_gpt2()
    with untouched(model), pytest.raises(LodaError, match=rule):
        loda.inject(model, loda.LodaConfig(ADAPTERS["loda_plus"].__class__(**settings)))
