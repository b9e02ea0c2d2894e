"""Seven training runs of 20 steps against the reference's optimiser and schedule (train_trajectories.json).

Losses within 1e-5, final adapters within 1e-4, learning rates exact.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR

import loda
from loda.inject import projections
from loda.lab.config import OptimConfig
from loda.lab.loss import target_loss
from loda.lab.optim import ReferenceAdamW, schedule
from tests.parity.reference import DATA, tiny_gpt2, with_lora
from tests.parity.test_loss import batch

TRAJECTORIES = json.loads((DATA / "train_trajectories.json").read_text())["trajectories"]


def settings(args: dict) -> OptimConfig:
    return OptimConfig(
        lr=args["lr"],
        weight_decay=args["weight_decay"],
        beta1=args["adam_beta1"],
        beta2=args["adam_beta2"],
        eps=args["adam_eps"],
        correct_bias=args["correct_bias"],
        warmup_steps=args["warmup"],
        label_smoothing=args["label_smooth"],
        batch_size=8,
        epochs=1,
        schedule_epochs=1,
        keep_epochs=(),
    )


def start(name: str, args: dict):
    if args["trainable"] == "all":
        return tiny_gpt2()
    tensors = load_file(DATA / "train_trajectories_lora.safetensors")
    return with_lora(
        tiny_gpt2(), {k.removeprefix(f"{name}.init."): v for k, v in tensors.items() if k.startswith(f"{name}.init.")}
    )


@pytest.mark.parametrize("trajectory", TRAJECTORIES, ids=lambda t: t["name"])
def test_losses_learning_rates_and_final_adapter(trajectory):
    name, args = trajectory["name"], trajectory["args"]
    model = start(name, args)
    optimizer = ReferenceAdamW(loda.trainable_parameters(model).values(), settings(args))
    # the reference's constant schedule warms up too; far from its end the linear one is the same
    horizon = args["max_step"] if args["scheduler"] == "linear" else 10**18
    factor = schedule(args["warmup"], horizon)
    scheduler = LambdaLR(optimizer, factor)
    for step in trajectory["steps"]:
        lr = scheduler.get_last_lr()[0]
        if step["is_update"]:
            assert lr == pytest.approx(step["lr_used"], rel=1e-12)
        loss = target_loss(model, batch(step["batch"]), args["label_smooth"])
        assert loss.item() == pytest.approx(step["loss"], abs=1e-5)
        (loss / args["grad_acc"]).backward()
        if step["is_update"]:
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()  # on every micro-batch, as in the reference
        assert scheduler.get_last_lr()[0] == pytest.approx(step["lr_after"], rel=1e-12, abs=1e-18)
    if args["trainable"] == "all":
        for parameter, norm in trajectory["final_param_norms"].items():
            if parameter in dict(model.named_parameters()):
                assert model.get_parameter(parameter).norm().item() == pytest.approx(norm, rel=1e-4)
        return
    final = load_file(DATA / "train_trajectories_lora.safetensors")
    for module, projection in projections(model).items():
        parts = [projection.adapters[part] for part in ("q", "v")]
        lora_a = torch.cat([part.A.detach().T for part in parts])
        lora_b = torch.cat([part.B.detach().T for part in parts])
        torch.testing.assert_close(lora_a, final[f"{name}.final.{module}.lora_A"], rtol=0, atol=1e-4)
        torch.testing.assert_close(lora_b, final[f"{name}.final.{module}.lora_B"], rtol=0, atol=1e-4)
