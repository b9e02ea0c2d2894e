"""Our LoRA is LoRA's: logits of the original model, and `loralib.MergedLinear` layer by layer."""

import loralib
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import loda
from loda.adapters import LoDA, LoDAPlus, LoRA
from loda.approx.dense import DenseLinear
from loda.projection import FusedSlice, projections
from tests.parity.reference import DATA, copy_lora, lora_tensors, tiny_gpt2, with_lora


@pytest.fixture(scope="module")
def golden():
    return load_file(DATA / "logits.safetensors")


def logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens).logits


def test_logits_of_the_base(golden):
    torch.testing.assert_close(logits(tiny_gpt2(), golden["input"]), golden["logits_base"], rtol=0, atol=1e-5)


def test_logits_with_the_adapter(golden):
    model = with_lora(tiny_gpt2(), lora_tensors())
    torch.testing.assert_close(logits(model, golden["input"]), golden["logits_lora_nonzeroB"], rtol=0, atol=1e-5)


def test_logits_with_the_adapter_merged(golden):
    model = loda.merge(with_lora(tiny_gpt2(), lora_tensors()))
    torch.testing.assert_close(logits(model, golden["input"]), golden["logits_lora_nonzeroB"], rtol=0, atol=2e-5)


def test_merging_and_taking_the_adapters_out_again():
    base, model = tiny_gpt2(), with_lora(tiny_gpt2(), lora_tensors())
    deltas = {
        name: torch.cat([p.adapters["q"].weight(), torch.zeros(64, 64), p.adapters["v"].weight()], dim=1)
        for name, p in projections(model).items()
    }
    merged = loda.merge(model)
    for name, delta in deltas.items():
        # loralib's own merging and unmerging of the same adapter
        theirs = loralib.MergedLinear(
            64, 192, r=4, lora_alpha=32, enable_lora=[True, False, True], fan_in_fan_out=True, merge_weights=True
        )
        original = base.get_submodule(name).weight
        theirs.weight.data.copy_(original)
        theirs.lora_A.data.copy_(lora_tensors()[f"{name}.lora_A"])
        theirs.lora_B.data.copy_(lora_tensors()[f"{name}.lora_B"])
        theirs.eval()
        weight = merged.get_submodule(name).weight
        assert (weight - original).abs().max() > 0.1
        torch.testing.assert_close(weight, theirs.weight.data, rtol=0, atol=1e-6)
        theirs.train()
        torch.testing.assert_close(weight - delta, theirs.weight.data, rtol=0, atol=1e-6)
        torch.testing.assert_close(weight - delta, original, rtol=0, atol=1e-6)


def test_a_saved_adapter_comes_back_after_merging(golden, tmp_path):
    model = with_lora(tiny_gpt2(), lora_tensors())
    before = logits(model, golden["input"])
    loda.save_pretrained(model, tmp_path / "adapter")
    torch.testing.assert_close(logits(loda.merge(model), golden["input"]), before, rtol=0, atol=2e-5)
    assert torch.equal(logits(loda.from_pretrained(tiny_gpt2(), tmp_path / "adapter"), golden["input"]), before)


def test_the_adapter_matters(golden):
    assert (golden["logits_lora_nonzeroB"] - golden["logits_base"]).abs().max() > 1


@pytest.mark.parametrize("config", [LoDA(), LoDAPlus()], ids=["loda", "loda_plus"])
def test_logits_of_loda_with_one_hidden_matrix_zero(golden, config):
    # The special case of the paper's section 2, on the reference's own adapter.
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(config))
    for name, projection in projections(model).items():
        copy_lora(projection, lora_tensors()[f"{name}.lora_A"], lora_tensors()[f"{name}.lora_B"])
        for adapter in projection.adapters.values():
            torch.nn.init.zeros_(adapter.f1.linears[1].weight)
    torch.testing.assert_close(logits(model, golden["input"]), golden["logits_lora_nonzeroB"], rtol=0, atol=1e-5)


def pair(d: int, r: int, alpha: float, dropout: float) -> tuple[loda.AdaptedProjection, loralib.MergedLinear]:
    """Our projection and loralib's, with the same weights, on q and v of a fused (d, 3d) projection."""
    theirs = loralib.MergedLinear(
        d,
        3 * d,
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        enable_lora=[True, False, True],
        fan_in_fan_out=True,
        merge_weights=False,
    ).double()
    torch.nn.init.normal_(theirs.lora_B)
    slices = {"q": FusedSlice(0, d), "k": FusedSlice(d, 2 * d), "v": FusedSlice(2 * d, 3 * d)}
    ours = loda.AdaptedProjection(DenseLinear(theirs.weight.detach(), theirs.bias.detach()), slices, d)
    for part in ("q", "v"):
        ours.adapt(part, LoRA(r=r, alpha=alpha).build(d, d).double(), dropout)
    copy_lora(ours, theirs.lora_A, theirs.lora_B)
    return ours, theirs


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(("d", "r", "alpha"), [(64, 4, 32), (12, 1, 3), (10, 10, 1)])
def test_output_and_gradients_of_loralib(d, r, alpha, dropout):
    # With dropout too: the same seed draws the same mask, because both draw one for q and v together.
    ours, theirs = pair(d, r, alpha, dropout)
    x = torch.randn(3, 5, d, dtype=torch.float64)
    outputs, input_gradients = [], []
    for module in (ours, theirs):
        copied = x.clone().requires_grad_()
        module.train()  # loralib's returns nothing
        torch.manual_seed(7)
        output = module(copied)
        output.square().sum().backward()
        outputs.append(output)
        input_gradients.append(copied.grad)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*input_gradients)
    adapters = ours.adapters.values()
    torch.testing.assert_close(torch.cat([adapter.A.grad.T for adapter in adapters]), theirs.lora_A.grad)
    torch.testing.assert_close(torch.cat([adapter.B.grad.T for adapter in adapters]), theirs.lora_B.grad)


def test_the_k_slice_of_both_is_the_base():
    ours, theirs = pair(16, 4, 32, 0.0)
    x = torch.randn(5, 16, dtype=torch.float64)
    k = (x @ ours.base.weight + ours.base.bias)[:, 16:32]
    torch.testing.assert_close(ours(x)[:, 16:32], k)
    torch.testing.assert_close(theirs(x)[:, 16:32], k)
