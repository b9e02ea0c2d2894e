"""Our training loop against seven runs of 20 steps of the reference's own (train_trajectories.json).

Losses within 1e-5, final adapters within 1e-4, learning rates exact. The runs take the batches of train_batches.json in
turn, so the order alone is put in; loss, accumulation, optimiser and schedule are those of every training.
"""

import json
from itertools import cycle

import pytest
import torch
from safetensors.torch import load_file

from loda.lab.config import OptimConfig, compose
from loda.lab.training import loop
from loda.lab.training.loop import Loop, prepared
from loda.lab.training.metrics_logger import MetricsLogger
from tests.parity.reference import DATA, in_layout, tiny_gpt2, with_lora
from tests.parity.test_rows import BATCHES, row

TRAJECTORIES = json.loads((DATA / "train_trajectories.json").read_text())["trajectories"]
TENSORS = load_file(DATA / "train_trajectories_lora.safetensors")
SIZE = BATCHES["batch_size"]
ROWS = [row(pair, BATCHES["seq_len"]) for pair in BATCHES["rows"]]
PER_EPOCH = len(ROWS) // SIZE


class Lines:
    """A backend that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.lines.append({"step": step, **values})

    def finish(self) -> None:
        pass


def settings(args: dict) -> OptimConfig:
    assert args["clip"] == 0  # no run of the reference clips gradients, and neither does LoRA's recipe
    assert not args["no_decay_bias"]
    return OptimConfig(
        lr=args["lr"],
        weight_decay=args["weight_decay"],
        beta1=args["adam_beta1"],
        beta2=args["adam_beta2"],
        eps=args["adam_eps"],
        correct_bias=args["correct_bias"],
        warmup_steps=args["warmup"],
        label_smoothing=args["label_smooth"],
        batch_size=SIZE,
        gradient_accumulation_steps=args["grad_acc"],
        epochs=args["steps"] // PER_EPOCH,
        # the reference's constant schedule warms up too; far from its end the linear one is the same
        lr_schedule_epochs=args["max_step"] // PER_EPOCH if args["scheduler"] == "linear" else 10**18,
        checkpoint_epochs=(),
    )


def start(name: str, args: dict):
    if args["trainable"] == "all":
        return tiny_gpt2()
    prefix = f"{name}.init."
    return with_lora(tiny_gpt2(), {k.removeprefix(prefix): v for k, v in TENSORS.items() if k.startswith(prefix)})


def weights(model, args: dict) -> dict[str, torch.Tensor]:
    """What was trained, in the reference's names and layout."""
    if args["trainable"] == "all":
        return {name: parameter.detach() for name, parameter in model.named_parameters()}
    return in_layout(model, torch.detach)


def test_all_seven_runs_are_there():
    assert len(TRAJECTORIES) == 7
    assert all(len(run["steps"]) == run["args"]["steps"] == 20 for run in TRAJECTORIES)


@pytest.mark.parametrize("run", TRAJECTORIES, ids=lambda run: run["name"])
def test_losses_learning_rates_and_final_adapter(run, monkeypatch):
    name, args, steps = run["name"], run["args"], run["steps"]
    assert [step["batch"] for step in steps] == [i % PER_EPOCH for i in range(len(steps))]
    in_turn = [list(range(SIZE * b, SIZE * (b + 1))) for b in range(PER_EPOCH)]
    monkeypatch.setattr(loop, "batches", lambda *given: cycle(in_turn))
    model, lines = start(name, args), Lines()
    trainer = compose(["trainer.device=cpu", "trainer.log_every=1"]).trainer
    with prepared(model, trainer, packing=False):
        training = Loop(model, ROWS, 0, settings(args), trainer)
        training.run(MetricsLogger(lines), keep=lambda checkpoint: None, save=lambda state: None)
    for line, step in zip(lines.lines, steps, strict=True):
        assert line["step"] == step["step"]
        assert line["loss"] == pytest.approx(step["loss"], abs=1e-5)
        assert line["lr"] == pytest.approx(step["lr_used"], rel=1e-12)
    for line, step in zip(lines.lines[1:], steps, strict=False):
        assert line["lr"] == pytest.approx(step["lr_after"], rel=1e-12)
    final = weights(model, args)
    assert final.keys() == run["final_param_norms"].keys()
    for key, tensor in final.items():
        assert tensor.norm().item() == pytest.approx(run["final_param_norms"][key], rel=1e-4)
        if args["trainable"] != "all":  # of the full fine-tuning the reference keeps norms alone
            torch.testing.assert_close(tensor, TENSORS[f"{name}.final.{key}"], rtol=0, atol=1e-4)
