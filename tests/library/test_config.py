"""LodaConfig and its parts: plain frozen data, to JSON and back, and every mistake refused by name."""

import dataclasses
import json
import typing

import pytest

import loda
from loda.adapters import LoDA, LoDAPlus, LoRA, NoAdapter
from loda.adapters.nonlinear import StackConfig
from loda.approx import LowRank, Sparse
from loda.config import part_class, part_from_dict, part_name, part_names, part_to_dict
from loda.errors import LodaError
from tests.library.models import ADAPTERS, APPROXIMATIONS, tiny_gpt2

PARTS = [(group, name) for group in ("adapter", "approx") for name in part_names(group)]
every_part = pytest.mark.parametrize(("group", "name"), PARTS)

CONFIGS = [
    *(loda.LodaConfig(adapter, approx) for adapter in ADAPTERS.values() for approx in APPROXIMATIONS.values()),
    loda.LodaConfig(LoRA(r=8, alpha=16, dropout=0.1, init="reference"), Sparse(keep=0.6), slices=("v",)),
    loda.LodaConfig(LoDA(f1=StackConfig(3, "activation-linear", 0.1, 1e-6)), LowRank(rank=1), slices=["k", "q"]),
    loda.LodaConfig(LoDAPlus(f2=StackConfig(stages=1, order="norm-activation"))),
]


def test_the_defaults_are_those_of_the_paper():
    config = loda.LodaConfig(LoDAPlus())
    assert config.slices == ("q", "v")
    assert part_name(config.approx) == "dense"


@every_part
def test_a_config_is_a_frozen_dataclass_with_plain_settings_and_defaults(group, name):
    config = part_class(group, name)()
    assert dataclasses.is_dataclass(config)
    assert hash(config) == hash(type(config)())
    for field in dataclasses.fields(config):
        kind = typing.get_type_hints(type(config))[field.name]
        assert dataclasses.is_dataclass(kind) or kind in (bool, int, float, str), f"{field.name}: {kind}"
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))


@every_part
def test_a_part_exports_its_module(group, name):
    # An approximation always has one, an adapter where it adds modules to a model.
    module = __import__(part_class(group, name).__module__, fromlist=["Config"])
    if group == "approx":
        assert hasattr(module, "Frozen")
    else:
        none, own = (
            {n for n, _ in loda.inject(tiny_gpt2(), loda.LodaConfig(adapter)).named_modules()}
            for adapter in (NoAdapter(), module.Config())
        )
        assert hasattr(module, "Adapter") == (own > none)
    assert module.__doc__
    assert module.Config.__doc__


@every_part
def test_a_part_is_known_by_its_file(group, name):
    config = part_class(group, name)()
    assert part_name(config) == name
    assert part_from_dict(group, {"name": name}) == config
    assert part_from_dict(group, json.loads(json.dumps(part_to_dict(config)))) == config


@every_part
def test_an_unknown_setting_is_refused_by_name(group, name):
    with pytest.raises(LodaError, match=f"{group}.wdith is not a setting"):
        part_from_dict(group, {"name": name, "wdith": 4})


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_a_configuration_survives_json(config):
    assert loda.LodaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("group", ["adapter", "approx"])
@pytest.mark.parametrize("name", ["rloda", "../lora", "", None, "loda.adapters.lora", 4])
def test_an_unknown_part_is_refused_by_name(group, name):
    with pytest.raises(LodaError, match=f"{group}.name=.* is not one of"):
        part_from_dict(group, {"name": name})


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"name": "lora", "r": "4"}, "adapter.r='4' must be of type int"),
        ({"name": "lora", "r": 4.5}, "adapter.r=4.5 must be of type int"),
        ({"name": "lora", "r": True}, "adapter.r=True must be of type int"),
        ({"name": "lora", "alpha": None}, "adapter.alpha=None must be of type float"),
        ({"name": "loda", "f1": 3}, "adapter.f1=3 must be a mapping of settings"),
        ({"name": "loda", "f1": {"order": 1}}, "adapter.f1.order=1 must be of type str"),
        ({"name": "loda_plus", "f2": {"width": 1}}, "adapter.f2.width is not a setting"),
        ("lora", "adapter='lora' must be a mapping of settings"),
    ],
    ids=str,
)
def test_a_setting_of_another_type_is_refused_by_name(settings, rule):
    with pytest.raises(LodaError, match=rule):
        loda.LodaConfig.from_dict({"adapter": settings})


def test_a_whole_number_will_do_for_a_real_one():
    assert part_from_dict("adapter", {"name": "lora", "alpha": 16}) == LoRA(alpha=16.0)


@pytest.mark.parametrize("data", [{}, {"approx": {"name": "dense"}}, {"adapter": {"name": "lora"}, "rank": 4}], ids=str)
def test_a_configuration_has_its_keys_and_no_other(data):
    with pytest.raises(LodaError, match="has the keys adapter, approx, slices"):
        loda.LodaConfig.from_dict(data)


@pytest.mark.parametrize("slices", [(), ("q", "q")])
def test_slices_are_named_once(slices):
    with pytest.raises(LodaError, match="must name each slice once and at least one"):
        loda.LodaConfig(LoRA(), slices=slices)
