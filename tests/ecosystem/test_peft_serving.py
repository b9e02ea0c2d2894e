"""Many adapters over one base: another one for each row of a batch, and one put in the place of another."""

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from loda.errors import LodaError
from loda.peft import hotswap_adapter
from tests.ecosystem.models import LOWRANK, adapted, config
from tests.library.models import TOKENS, logits, perturb, untouched

ROWS = TOKENS[[0, 1, 0, 1]]
NAMES = ["first", "__base__", "second", "first"]
GENERATE = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def tenants(kind: str = "llama", first: object = None, second: object = None) -> PeftModel:
    """Adapters called default, which is active, first and second."""
    model = adapted(kind, approx=first)
    for seed, (name, approx) in enumerate({"first": first, "second": second}.items()):
        settings = {"variant": "lora", "r": 2, "layers_to_transform": [1]} if name == "second" and not approx else {}
        model.add_adapter(name, config(approx=approx, **settings))
        model.set_adapter(name)
        perturb(model, seed=5 + seed)
    model.set_adapter("default")
    return model.eval()


def by_name(model: PeftModel, call: Callable[[], Tensor]) -> dict[str, Tensor]:
    """What each adapter alone gives for all rows."""
    found = {}
    for name in ("first", "second"):
        model.set_adapter(name)
        found[name] = call()
    with model.disable_adapter():
        found["__base__"] = call()
    model.set_adapter("default")
    return found


@pytest.mark.parametrize("approx", [None, LOWRANK], ids=["dense", "low_rank"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_each_row_has_the_logits_of_its_adapter(kind, approx):
    model = tenants(kind, approx, approx)
    with torch.no_grad():
        mixed = model(ROWS, adapter_names=NAMES).logits
        alone = by_name(model, lambda: model(ROWS).logits)
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[row], alone[name][row], rtol=1e-5, atol=1e-5)
    assert len({alone[name][0].sum().item() for name in alone}) == 3
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("beams", [1, 3])
def test_each_row_is_generated_by_its_adapter(beams):
    model = tenants()
    call = {"attention_mask": torch.ones_like(ROWS), "num_beams": beams, **GENERATE}
    mixed = model.generate(input_ids=ROWS, adapter_names=NAMES, **call)
    alone = by_name(model, lambda: model.generate(input_ids=ROWS, **call))
    assert mixed.tolist() == [alone[name][row].tolist() for row, name in enumerate(NAMES)]


def test_modules_to_save_are_those_of_the_row():
    model = adapted("llama", modules_to_save=["lm_head"])
    model.add_adapter("second", config(modules_to_save=["lm_head"]))
    with torch.no_grad():
        mixed = model(TOKENS, adapter_names=["default", "second"]).logits
    expected = logits(model)[0]
    model.set_adapter("second")
    torch.testing.assert_close(mixed, torch.stack([expected, logits(model)[1]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "train", "rule"),
    [
        (["first", "third"], False, "non-existing adapter.* third; there are default, first, second and __base__"),
        (["first"], False, "should be the same as the number of inputs, but got 1 and 2"),
        (["first", "default"], True, "when the model is in training mode"),
        (["first", "second"], False, "first and second stand over different approximations"),
    ],
    ids=["unknown", "length", "training", "bases"],
)
def test_rows_that_cannot_be_served_are_refused(names, train, rule):
    model = tenants(first=LOWRANK).train(train)
    with untouched(model), pytest.raises(LodaError, match=rule):
        model(TOKENS, adapter_names=names)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_rows_over_merged_adapters_are_refused():
    model = adapted(variant="lora")
    model.merge_adapter()
    with pytest.raises(LodaError, match="there are merged adapters"):
        model(TOKENS, adapter_names=["default", "__base__"])


@pytest.mark.parametrize("approx", [None, LOWRANK], ids=["dense", "low_rank"])
@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile], ids=["plain", "compiled"])
def test_a_swapped_adapter_computes_what_the_saved_one_does_in_the_same_tensors(approx, wrap, tmp_path):
    other = adapted("llama", seed=9, approx=approx, modules_to_save=["lm_head"])
    other.save_pretrained(tmp_path)
    model = adapted("llama", approx=approx, modules_to_save=["lm_head"])
    held = {name: p.data_ptr() for name, p in model.named_parameters()}
    hotswap_adapter(wrap(model), str(tmp_path), "default")
    assert torch.equal(logits(model), logits(other))
    assert held == {name: p.data_ptr() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("saved", "rule"),
    [
        ({"alpha": 16.0}, r"alpha=16\.0 of the saved adapter is 32\.0 in the model"),
        ({"variant": "lora"}, "variant='lora' of the saved adapter is 'loda_plus'"),
        ({"approx": LOWRANK}, "approx=.* of the saved adapter is None in the model"),
        ({"layers_to_transform": [1]}, "layers.0.* has the shape None in the saved adapter"),
    ],
    ids=str,
)
def test_an_adapter_that_does_not_fit_is_not_swapped_in(saved, rule, tmp_path):
    adapted("llama", seed=9, **saved).save_pretrained(tmp_path)
    model = adapted("llama")
    with untouched(model), pytest.raises(LodaError, match=rule):
        hotswap_adapter(model, str(tmp_path), "default")


def test_only_an_adapter_that_is_there_and_not_merged_is_swapped(tmp_path):
    model = adapted(variant="lora")
    model.save_pretrained(tmp_path)
    with pytest.raises(LodaError, match="adapter_name='mine' is not an adapter of the model; it has default"):
        hotswap_adapter(model, str(tmp_path), "mine")
    model.merge_adapter()
    with pytest.raises(LodaError, match="default is merged into the base"):
        hotswap_adapter(model, str(tmp_path), "default")
