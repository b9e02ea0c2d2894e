"""Loss and gradients against the reference (loss_goldens.json): losses to 1e-5, gradient norms to 1e-4, relative."""

import json

import pytest
import torch
from safetensors.torch import load_file

from loda.lab.training.examples import collate
from loda.lab.training.loss import target_loss
from tests.parity.reference import DATA, in_layout, lora_tensors, tiny_gpt2, with_lora
from tests.parity.test_rows import BATCHES, row

CASES = json.loads((DATA / "loss_goldens.json").read_text())["cases"]
SIZE = BATCHES["batch_size"]


def batch(number: int):
    return collate([row(pair, BATCHES["seq_len"]) for pair in BATCHES["rows"][number * SIZE : (number + 1) * SIZE]])


def gradients(model) -> dict[str, torch.Tensor]:
    return in_layout(model, lambda tensor: tensor.grad)


def norms(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: tensor.norm().item() for name, tensor in tensors.items()}


@pytest.mark.parametrize("case", [c for c in CASES if "model" not in c and "dtype" not in c])
def test_lora_loss_and_gradients(case):
    model = with_lora(tiny_gpt2(), lora_tensors())
    loss = target_loss(model, batch(case["batch"]), case["label_smooth"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    assert int(batch(case["batch"]).mask.sum()) == case["mask_sum"]
    exact = load_file(DATA / "loss_lora_grads.safetensors")
    assert norms(gradients(model)) == pytest.approx(case["grad_norms"], rel=1e-4)
    for name, gradient in gradients(model).items():
        expected = exact[f"b{case['batch']}_ls{case['label_smooth']}.{name}"]
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("case", [c for c in CASES if c.get("dtype") == "float64"])
def test_the_loss_in_double_precision(case):
    model = with_lora(tiny_gpt2(), lora_tensors()).double()
    # target_loss computes its logits' softmax in float32, so this is float32's rounding of the last step alone
    loss = target_loss(model, batch(case["batch"]), case["label_smooth"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
    assert norms(gradients(model)) == pytest.approx(case["grad_norms"], rel=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if "model" in c])
def test_loss_and_gradients_of_the_base_model(case):
    model = tiny_gpt2()
    loss = target_loss(model, batch(case["batch"]), case["label_smooth"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    assert norms({name: p.grad for name, p in model.named_parameters()}) == pytest.approx(case["grad_norms"], rel=1e-4)


def test_shares_of_a_batch_divided_by_the_tokens_of_all_add_up():
    model = with_lora(tiny_gpt2(), lora_tensors())
    rows = [row(pair, BATCHES["seq_len"]) for pair in BATCHES["rows"][:SIZE]]
    tokens = sum(r.num_targets for r in rows)
    assert tokens == int(collate(rows).mask.sum())
    shares = [target_loss(model, collate(share), 0.1, tokens) for share in (rows[:1], rows[1:4], rows[4:])]
    assert sum(shares).item() == pytest.approx(target_loss(model, collate(rows), 0.1).item(), rel=1e-6)


def test_padding_to_the_longest_row_changes_nothing():
    model = with_lora(tiny_gpt2(), lora_tensors())
    rows = [row(pair, BATCHES["seq_len"]) for pair in BATCHES["rows"][:SIZE]]
    together = target_loss(model, collate(rows), 0.1) * (sum(r.num_targets for r in rows) + 1e-4)
    alone = sum(target_loss(model, collate([r]), 0.1) * (r.num_targets + 1e-4) for r in rows)
    assert together.item() == pytest.approx(alone.item(), rel=1e-5)
