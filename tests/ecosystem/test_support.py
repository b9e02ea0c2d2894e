"""Every method works on every architecture, as docs/ecosystem.md says."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

import loda
from loda.adapters import LoDAPlus, LoRA
from loda.approx import LowRank, Sparse
from tests.ecosystem.models import SETTINGS, changed_parts, config, tiny
from tests.ecosystem.support_table import BEGIN, END, PAGE, listing
from tests.library.models import ADAPTERS, logits, perturb

CONFIGS = {name: loda.LodaConfig(adapter) for name, adapter in ADAPTERS.items() if name != "none"}
CONFIGS |= {"low_rank": loda.LodaConfig(LoDAPlus(), LowRank(rank=8)), "sparse": loda.LodaConfig(LoDAPlus(), Sparse())}
IN_QV = ("full_rank", "lora", "loda", "loda_plus")  # adapters beside a projection
STARTS_ELSEWHERE = ("prefix", "low_rank", "sparse")

CASES = [(kind, name, torch.float32) for kind in SETTINGS for name in CONFIGS if kind == "gpt2" or name != "prefix"]
CASES += [(kind, "loda_plus", torch.bfloat16) for kind in SETTINGS]
on_every_architecture = pytest.mark.parametrize("kind", SETTINGS)


def test_the_page_lists_the_architectures_that_are_tested():
    _, found = PAGE.read_text(encoding="utf-8").split(BEGIN)
    assert found.partition(END)[0] == listing(), "run `python -m tests.ecosystem.support_table`"


@pytest.mark.parametrize(("kind", "name", "dtype"), CASES, ids=str)
def test_a_method_starts_as_the_base_changes_what_it_names_and_loads(kind, name, dtype, tmp_path):
    base = tiny(kind, dtype=dtype)
    model = loda.inject(copy.deepcopy(base), CONFIGS[name])
    start = logits(model)
    assert torch.equal(start, logits(base)) is (name not in STARTS_ELSEWHERE)
    changed = logits(perturb(model))
    assert not torch.equal(changed, start)
    assert changed.isfinite().all()
    if name in IN_QV:
        assert set(map(frozenset, changed_parts(base, model))) == {frozenset("qv")}
    loda.save_pretrained(model, tmp_path)
    assert torch.equal(logits(loda.from_pretrained(base, tmp_path)), changed)


@on_every_architecture
def test_merged_weights_compute_what_lora_beside_them_computes(kind):
    model = perturb(loda.inject(tiny(kind), loda.LodaConfig(LoRA())))
    before = logits(model)
    torch.testing.assert_close(logits(loda.merge(model)), before, rtol=1e-4, atol=1e-4)


@on_every_architecture
def test_the_adapter_that_peft_adds_by_default_works(kind, tmp_path):
    base = tiny(kind)
    before = logits(base)
    model = get_peft_model(copy.deepcopy(base), config())
    assert torch.equal(logits(model), before)
    changed = logits(perturb(model))
    assert not torch.equal(changed, before)
    assert changed.isfinite().all()
    assert set(map(frozenset, changed_parts(base, model.get_base_model()))) == {frozenset("qv")}
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path)), changed)
