"""8-bit and 4-bit bases of bitsandbytes under any adapter, on the CPU; skipped where that package does not run."""

from functools import partial

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

import loda
import loda.peft
from loda.adapters import FineTune, FineTuneTop2, Houlsby, LoDAPlus, LoRA
from loda.approx import LowRank, Sparse
from loda.errors import LodaError
from tests.ecosystem.models import tiny
from tests.library.models import (
    assert_a_cache_changes_nothing,
    assert_gradients_reach_what_trains,
    logits,
    perturb,
    same_state,
    state,
    train,
    untouched,
)

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

BITS = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
}
CASES = {"int8": "gpt2", "nf4": "llama"}
# On CPUs with AVX512-BF16 bitsandbytes wants rows of whole blocks of 64 numbers, where it computes without gradients.
SIZES = {"gpt2": {}, "llama": {"hidden_size": 64, "intermediate_size": 64}}


def unquantised(kind: str) -> PreTrainedModel:
    return tiny(kind, **SIZES[kind])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {kind: tmp_path_factory.mktemp(kind) for kind in CASES.values()}
    for kind, folder in found.items():
        unquantised(kind).save_pretrained(folder)
    return found


@pytest.fixture(params=CASES)
def bits(request):
    return request.param


@pytest.fixture
def kind(bits):
    return CASES[bits]


@pytest.fixture
def fresh(folders, bits, kind):
    """Loads the quantised base anew each time it is called."""

    def load(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        quantised = BITS[bits]
        try:
            return AutoModelForCausalLM.from_pretrained(
                folders[kind], quantization_config=quantised, device_map="cpu", dtype=dtype
            ).eval()
        except (ImportError, RuntimeError, NotImplementedError) as error:
            pytest.skip(f"bitsandbytes does not run here: {error}")

    return load


def test_the_base_is_quantised_and_computes_nearly_what_it_did(fresh, kind):
    # Otherwise the tests below would be of an ordinary model.
    model = fresh()
    assert sum(not parameter.is_floating_point() for parameter in model.parameters()) >= 8
    difference = (logits(model) - logits(unquantised(kind))).abs().mean() / logits(unquantised(kind)).abs().mean()
    assert 0 < difference < 0.5


def test_it_costs_what_the_base_costs_and_takes_less_memory(fresh, kind):
    base, packed = unquantised(kind), fresh()
    assert packed.get_memory_footprint() < 0.7 * base.get_memory_footprint()
    exact, cost = (loda.cost(loda.inject(model, loda.LodaConfig(LoDAPlus()))) for model in (base, packed))
    assert cost == exact


@pytest.mark.parametrize("adapter", [LoDAPlus(), Houlsby(r=4)], ids=repr)
def test_an_adapter_starts_trains_saves_and_unloads_over_it(fresh, adapter, tmp_path):
    config = loda.LodaConfig(adapter)
    base = logits(loda.unload(loda.inject(fresh(), config)))
    model = loda.inject(fresh(), config)
    assert torch.equal(logits(model), base)
    assert {parameter.dtype for parameter in loda.trainable_parameters(model).values()} == {torch.float32}
    assert_gradients_reach_what_trains(perturb(model.train()))
    model.eval()
    loda.save_pretrained(model, tmp_path)
    assert torch.equal(logits(loda.from_pretrained(fresh(), tmp_path)), logits(model))
    loda.unload(model)
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("adapter", [LoDAPlus(), Houlsby(r=4)], ids=repr)
def test_what_trains_is_fp32_also_where_the_rest_is_bf16(fresh, adapter):
    model = loda.inject(fresh(torch.bfloat16), loda.LodaConfig(adapter))
    assert {parameter.dtype for parameter in loda.trainable_parameters(model).values()} == {torch.float32}
    train(model)
    assert logits(model).dtype == torch.bfloat16
    assert logits(model).isfinite().all()


def test_a_base_whose_weights_a_forward_pass_has_laid_out_anew_is_refused(fresh, bits):
    model = fresh()
    logits(model)
    if not any(getattr(getattr(p, "quant_state", None), "packing_format_for_cpu", False) for p in model.parameters()):
        pytest.skip(f"bitsandbytes leaves {bits} weights as they are on this CPU")
    for add in (
        partial(loda.inject, model, loda.LodaConfig(LoRA())),
        partial(get_peft_model, model, loda.peft.LodaConfig()),
    ):
        with pytest.raises(LodaError, match="add adapters before its first forward pass"):
            add()


def test_decoding_with_a_cache_gives_what_decoding_without_one_gives(fresh):
    assert_a_cache_changes_nothing(perturb(loda.inject(fresh(), loda.LodaConfig(LoDAPlus()))))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (loda.LodaConfig(LoDAPlus(), LowRank(rank=4)), "quantised already: approx=low_rank of rounded numbers"),
        (loda.LodaConfig(LoDAPlus(), Sparse()), "quantised already: approx=sparse of rounded numbers"),
        (loda.LodaConfig(FineTune()), "is quantised and cannot be trained"),
        (loda.LodaConfig(FineTuneTop2()), "is quantised and cannot be trained"),
    ],
    ids=["low_rank", "sparse", "finetune", "finetune_top2"],
)
def test_what_makes_no_sense_over_it_is_refused_with_the_reason(fresh, config, reason):
    model = fresh()
    before = state(model)
    with pytest.raises(LodaError, match=reason):
        loda.inject(model, config)
    assert same_state(state(model), before)


def test_8_bit_products_leave_quantised_modules_as_they_are(fresh):
    # Their codes are no weights: read as such, the outputs would be noise. The head is rounded.
    model = perturb(loda.inject(fresh(), loda.LodaConfig(LoDAPlus()))).eval()
    before = logits(model)
    after = logits(loda.optimize_for_inference(model, int8=True))
    assert (after - before).norm() < 0.05 * before.norm()


def test_merging_into_it_is_refused(fresh):
    model = perturb(loda.inject(fresh(), loda.LodaConfig(LoRA())))
    with untouched(model), pytest.raises(LodaError, match="quantised base cannot be merged"):
        loda.merge(model)


def test_the_same_holds_inside_peft(fresh, tmp_path):
    config = loda.peft.LodaConfig(task_type="CAUSAL_LM", variant="lora")
    model = perturb(get_peft_model(fresh(), config).eval())
    assert_gradients_reach_what_trains(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(), tmp_path).eval()), logits(model))
    with pytest.raises(LodaError, match="quantised base cannot be merged"):
        model.merge_and_unload()
    with pytest.raises(LodaError, match="quantised already"):
        get_peft_model(fresh(), loda.peft.LodaConfig(approx={"name": "low_rank", "rank": 4}))
