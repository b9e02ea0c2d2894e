"""The training loop: precision, accumulation, activation checkpointing, and which process does what."""

import json
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from accelerate.state import GradientState

import loda
from loda.adapters import LoRA
from loda.errors import LodaError
from loda.lab.base.files import SHIPPED
from loda.lab.base.model import load_base
from loda.lab.config import LoggerConfig, compose
from loda.lab.device import explain_oom, pick_device
from loda.lab.processes import check_processes, is_main_process
from loda.lab.training import loop
from loda.lab.training.examples import Example, collate
from loda.lab.training.loop import EMPTY, Loop, prepared
from loda.lab.training.loss import target_loss
from loda.lab.training.metrics_logger import MetricsLogger
from loda.lab.training.optimizer import ReferenceAdamW

EXPERIMENT = compose(["model=toy", "dataset=toy", "trainer.device=cpu", "trainer.log_every=1", "trainer.max_steps=4",
                      "optim.batch_size=4", "optim.lr=1e-2", "optim.warmup_steps=1"])  # fmt: skip
OPTIM, TRAINER = EXPERIMENT.optim, EXPERIMENT.trainer
EXAMPLES = [Example(list(range(7 + i, 15 + 3 * i)), 3 + i % 4) for i in range(10)]


def training(folder, optim=OPTIM, trainer=TRAINER, dropout=0.0, examples=EXAMPLES, packing=False):
    """The metrics of a short training from always the same start, and the adapters at each checkpoint, by step."""
    torch.manual_seed(0)
    model = loda.inject(load_base(EXPERIMENT.model, SHIPPED), loda.LodaConfig(LoRA(dropout=dropout)))
    path, kept = folder / "metrics.jsonl", {}

    def keep(checkpoint):
        kept[checkpoint.step] = torch.cat([p.detach().flatten() for p in loda.trainable_parameters(model).values()])

    logger = MetricsLogger.open(path, LoggerConfig(), "run", {}, resume=False)
    with prepared(model, trainer, packing), logger:
        Loop(model, examples, 0, optim, trainer, packing).run(logger, keep, save=lambda state: None)
    return [json.loads(line) for line in path.read_text().splitlines()], kept


def test_precisions_one_after_another_in_one_process(tmp_path):
    (exact, _), (rough, kept), (again, _) = (
        training(tmp_path, trainer=replace(TRAINER, precision=precision)) for precision in ("fp32", "bf16", "fp32")
    )
    assert exact == again
    assert rough != exact
    assert [line["loss"] for line in rough] == pytest.approx([line["loss"] for line in exact], rel=0.05)
    assert kept[4].dtype == torch.float32


def test_nothing_is_left_of_a_trainer_that_died_within_an_epoch(tmp_path):
    optim = replace(OPTIM, gradient_accumulation_steps=2)
    before = training(tmp_path, optim)[0]
    leftover = Mock(end_of_dataloader=True, remainder=-1)
    GradientState()._add_dataloader(leftover)  # an update at every batch, if it were heard
    assert training(tmp_path, optim)[0] == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_changes_nothing_but_what_is_stored(precision, tmp_path):
    # with dropout, whose mask has to be the same when a block is computed again
    results, stored = [], []
    for on in (False, True):
        trainer = replace(TRAINER, precision=precision, activation_checkpointing=on)
        stored.append(0)

        def count(tensor):
            stored[-1] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            results.append(training(tmp_path, trainer=trainer, dropout=0.1))
    (plain, kept), (checkpointed, kept_too) = results
    assert checkpointed == plain
    assert torch.equal(kept[4], kept_too[4])
    assert stored[1] < stored[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_training_has_the_same_losses(precision, tmp_path):
    # Only rounding may differ: 1e-5 in float32, bfloat16 keeps three digits.
    (plain, kept), (packed, kept_too) = (
        training(tmp_path, trainer=replace(TRAINER, precision=precision), packing=on) for on in (False, True)
    )
    bound = {"fp32": 1e-5, "bf16": 1e-2}[precision]
    assert [line["loss"] for line in packed] == pytest.approx([line["loss"] for line in plain], rel=bound)
    assert (kept_too[4] - kept[4]).norm() < bound * kept[4].norm()


def test_a_compiled_model_trains_as_it_does_uncompiled(tmp_path, monkeypatch):
    # Traced, but run by torch's own kernels: writing others takes minutes.
    compiled, compile_ = [], torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: compiled.append(self) or compile_(self, backend="eager", **how)
    )
    plain, traced = (training(tmp_path, trainer=replace(TRAINER, compile=on))[0] for on in (False, True))
    assert len(compiled) == 1
    assert [line["loss"] for line in traced] == pytest.approx([line["loss"] for line in plain], rel=1e-6)


def test_the_model_is_as_it_was_after_a_training():
    model = load_base(EXPERIMENT.model, SHIPPED)
    before = {name: type(module) for name, module in model.named_modules()}
    ids = torch.arange(7, 20)[None]
    with torch.no_grad():
        expected = model(ids).logits
        with prepared(model, replace(TRAINER, activation_checkpointing=True), packing=True):
            model.train()
        assert torch.equal(model(ids).logits, expected)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert not model.training


def test_an_update_follows_every_second_batch_and_the_learning_rate_every_batch(tmp_path):
    optim = replace(OPTIM, batch_size=1, gradient_accumulation_steps=2, epochs=4, warmup_steps=0)
    lines, _ = training(tmp_path, optim, examples=EXAMPLES[:1])  # the same batch four times
    assert lines[0]["loss"] == lines[1]["loss"] != lines[2]["loss"] == lines[3]["loss"]
    assert [line["lr"] for line in lines] == [optim.lr * left / 4 for left in (4, 3, 2, 1)]


@pytest.mark.parametrize(("accumulate", "changes"), [(1, True), (3, False)])
def test_what_is_left_over_at_the_end_is_not_applied(accumulate, changes, tmp_path):
    # 10 examples in batches of 4 are 3 steps; the fourth is left over
    _, kept = training(tmp_path, replace(OPTIM, gradient_accumulation_steps=accumulate, checkpoint_epochs=(1,)))
    assert sorted(kept) == [3, 4]
    assert torch.equal(kept[3], kept[4]) != changes


def test_a_process_without_an_example_takes_part_and_adds_nothing():
    model = loda.inject(load_base(EXPERIMENT.model, SHIPPED), loda.LodaConfig(LoRA()))
    loss = target_loss(model, collate([EMPTY]), label_smoothing=0.1, num_targets=7)
    loss.backward()
    assert loss.item() == 0
    # zeros, not None: DistributedDataParallel waits for the gradient of every parameter
    assert all(torch.count_nonzero(p.grad) == 0 for p in loda.trainable_parameters(model).values())


def launched(monkeypatch, index: int, count: int) -> None:
    for name, value in (("RANK", index), ("LOCAL_RANK", index), ("WORLD_SIZE", count)):
        monkeypatch.setenv(name, str(value))


def test_the_first_process_of_a_launch_is_the_main_one_and_the_batch_has_to_divide(monkeypatch):
    assert is_main_process()
    launched(monkeypatch, 1, 2)
    assert not is_main_process()
    check_processes(EXPERIMENT)
    launched(monkeypatch, 0, 3)
    assert is_main_process()
    with pytest.raises(LodaError, match=r"optim\.batch_size=4 does not divide by the 3 processes"):
        check_processes(EXPERIMENT)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    launched(monkeypatch, 1, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_processes(EXPERIMENT)  # on the CPU
    with pytest.raises(LodaError, match="no GPU to itself"):
        check_processes(compose(["trainer.device=cuda"]))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_says_what_to_lower(error):
    with (
        pytest.raises(LodaError, match=r"a training step ran out of memory .*; lower optim\.batch_size, then"),
        explain_oom("a training step", "lower optim.batch_size"),
    ):
        raise error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_not_silently_replaced():
    with pytest.raises(LodaError, match=r"trainer\.device=cuda"):
        pick_device("cuda")


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), explain_oom("decoding", "lower decode.batch_size"):
        raise RuntimeError("shapes do not match")


def test_gradients_are_clipped_to_a_norm_over_all_parameters(tmp_path):
    """As torch.nn.utils.clip_grad_norm_ does; a norm that is never reached changes nothing."""
    seen = []

    class Watched(ReferenceAdamW):
        def step(self, closure=None):
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            seen.append(torch.stack([g.norm() for g in gradients]).norm().item())
            super().step(closure)

    def norms(max_grad_norm):
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "ReferenceAdamW", Watched)
            _, kept = training(tmp_path, optim=replace(OPTIM, max_grad_norm=max_grad_norm))
        return list(seen), kept[4]

    (free, unchanged), (loose, same), (tight, other) = (norms(value) for value in (None, 1e6, 1e-3))
    assert (free, unchanged.tolist()) == (loose, same.tolist())
    assert min(free) > 1e-3
    assert tight == pytest.approx([1e-3] * 4, rel=1e-3)
    assert not torch.equal(other, unchanged)
