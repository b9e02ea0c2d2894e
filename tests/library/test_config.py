"""LodaConfig and its parts: plain frozen data, to JSON and back, and every mistake refused by name."""

import dataclasses
import json

import pytest

import loda
from loda.adapters import LoDA, LoDAPlus, LoRA
from loda.adapters.nonlinear import StackConfig
from loda.approx import Dense, LowRank, Sparse
from loda.config import from_plain, known, to_plain
from loda.errors import LodaError
from tests.library.models import ADAPTERS, APPROXIMATIONS

PARTS = [(group, name) for group in ("adapter", "approx") for name in known(group)]
every_part = pytest.mark.parametrize(("group", "name"), PARTS)

CONFIGS = [
    *(loda.LodaConfig(adapter, approx) for adapter in ADAPTERS.values() for approx in APPROXIMATIONS.values()),
    loda.LodaConfig(LoRA(r=8, alpha=16, dropout=0.1, init="reference"), Sparse(keep=0.6), slices=("v",)),
    loda.LodaConfig(LoDA(f1=StackConfig(3, "activation-linear", 0.1, 1e-6)), LowRank(rank=1), slices=["k", "q"]),
    loda.LodaConfig(LoDAPlus(f2=StackConfig(stages=1, order="norm-activation")), targets=("c_fc",)),
    loda.LodaConfig(LoRA(), LowRank(), joint=True),
    loda.LodaConfig(LoRA(), LowRank(rank=None, budget=0.5, calibration=2, rank_pattern={"a.b": 0, "a.c": 7})),
    loda.LodaConfig(LoRA(), modules_to_save=["score"]),
    loda.LodaConfig(LoRA(), modules_to_save=()),
    loda.LodaConfig(
        LoDAPlus(rank_pattern={"c_attn": 8}, alpha_pattern={"0.*": 2.5}, use_rslora=True, init_weights=False)
    ),
]


@every_part
def test_a_config_is_frozen_and_says_what_it_is(group, name):
    config = known(group)[name]()
    assert hash(config) == hash(type(config)())
    assert from_plain(group, {"name": name}) == config
    assert type(config).__doc__
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))


def test_a_representation_as_a_person_sees_it():
    assert repr(LoRA()).startswith("LoRAConfig(dropout=0.0, r=4, alpha=32.0, init='independent', rank_pattern={}")
    config = repr(loda.LodaConfig(LoRA()))
    modules = "targets=(), exclude_modules=(), layers_to_transform=()"
    assert f"approx=DenseConfig(), slices=('q', 'v'), {modules}, joint=False" in config


@every_part
def test_an_unknown_setting_is_refused_with_those_there_are(group, name):
    settings = ", ".join(field.name for field in dataclasses.fields(known(group)[name])) or "none"
    with pytest.raises(LodaError, match=f"{group}.wdith is not a setting; there are {settings}"):
        from_plain(group, {"name": name, "wdith": 4})


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_a_configuration_survives_json(config):
    assert loda.LodaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("group", ["adapter", "approx"])
@pytest.mark.parametrize("name", ["rloda", "../lora", None, 4, ["lora"]], ids=repr)
def test_an_unknown_part_is_refused_with_those_there_are(group, name):
    with pytest.raises(LodaError, match=f"{group}.name=.* is not one of {', '.join(known(group))}"):
        from_plain(group, {"name": name})


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"name": "lora", "r": "4"}, "adapter.r='4': input should be a valid integer"),
        ({"name": "lora", "r": 4.5}, "adapter.r=4.5: input should be a valid integer"),
        ({"name": "lora", "r": True}, "adapter.r=True: input should be a valid integer"),
        ({"name": "houlsby", "r": 0}, "adapter.r=0: input should be greater than or equal to 1"),
        ({"name": "prefix", "hidden": 0}, "adapter.hidden=0: .* greater than or equal to 1 .Li & Liang use 512"),
        ({"name": "lora", "alpha": None}, "adapter.alpha=None: input should be a valid number"),
        ({"name": "loda", "f1": 3}, "adapter.f1=3: input should be an object"),
        ({"name": "loda", "f1": {"order": 1}}, "adapter.f1.order=1: input should be a valid string"),
        ({"name": "loda_plus", "f2": {"width": 1}}, "adapter.f2.width is not a setting; there are stages, order"),
        ("lora", "adapter='lora' is not the settings of one of"),
    ],
    ids=str,
)
def test_a_setting_of_another_type_is_refused_by_name(settings, rule):
    with pytest.raises(LodaError, match=rule):
        loda.LodaConfig.from_dict({"adapter": settings})


def test_settings_that_came_later_are_written_only_if_they_are_set():
    # Digests of runs are made of plain data, and those of older runs stay valid.
    assert to_plain(LoRA()) == {"name": "lora", "dropout": 0.0, "r": 4, "alpha": 32.0, "init": "independent"}
    assert to_plain(LoRA(use_rslora=True, rank_pattern={"c_attn": 8})).items() >= {"use_rslora": True}.items()


def test_a_whole_number_will_do_for_a_real_one():
    assert from_plain("adapter", {"name": "lora", "alpha": 16}) == LoRA(alpha=16.0)


def test_a_configuration_needs_an_adapter_and_takes_no_unknown_key():
    with pytest.raises(LodaError, match="adapter has no value"):
        loda.LodaConfig.from_dict({"approx": {"name": "dense"}})
    with pytest.raises(LodaError, match="rank is not a setting; there are adapter, approx, slices, targets, exclude_"):
        loda.LodaConfig.from_dict({"adapter": {"name": "lora"}, "rank": 4})
    with pytest.raises(LodaError, match="adapter=4 is not the settings of one of"):
        loda.LodaConfig(4)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"slices": ()}, "must name each slice once and at least one"),
        ({"slices": ("q", "q")}, "must name each slice once and at least one"),
        ({"targets": ("c_fc", "c_fc")}, "must name each module once"),
        ({"joint": True}, "joint=True needs an approximation"),
    ],
    ids=str,
)
def test_rules_over_several_settings(settings, rule):
    with pytest.raises(LodaError, match=rule):
        loda.LodaConfig(LoRA(), **settings)


@pytest.mark.parametrize(
    "parts", [{"adapter": LowRank(rank=3)}, {"adapter": LoRA, "approx": Dense()}, {"adapter": LoRA(), "approx": LoRA()}]
)
def test_adapter_and_approximation_are_not_mixed_up(parts):
    with pytest.raises(LodaError, match="is not the settings of one of"):
        loda.LodaConfig(**parts)
