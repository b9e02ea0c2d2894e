"""A training or a decoding that is stopped anywhere goes on to the same bytes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loda
from eval.decode import stage as decoding
from loda.adapters import LoDAPlus
from loda.errors import LodaError
from loda.lab.base.files import SHIPPED
from loda.lab.base.model import load_base
from loda.lab.config import LoggerConfig, compose
from loda.lab.interrupt import REQUEUE, SIGNALS, Interrupted, deferred, listening
from loda.lab.run import Run
from loda.lab.training import loop
from loda.lab.training.examples import Example
from loda.lab.training.loop import Loop, prepared
from loda.lab.training.metrics_logger import JsonLines, MetricsLogger
from loda.lab.training.state import load_state, save_state
from tests.conftest import run_experiment

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENT = compose(["model=toy", "dataset=toy", "trainer.device=cpu", "trainer.log_every=3", "trainer.max_steps=8",
                      "optim.batch_size=3", "optim.lr=1e-2", "optim.warmup_steps=1",
                      "trainer.state_interval_minutes=0"])  # fmt: skip
OPTIM, TRAINER = EXPERIMENT.optim, EXPERIMENT.trainer
EXAMPLES = [Example(list(range(7 + i, 15 + 3 * i)), 3 + i % 4) for i in range(10)]
SHORT = ["model=toy", "dataset=toy", "adapter=lora", "optim=toy", "trainer=toy", "trainer.max_steps=6",
         "decode.num_beams=1", "seed=0",
                 "decode.max_new_tokens=4", "dataset.metrics=[bleu]", "decode.batch_size=8"]  # fmt: skip


class Stopped(Exception):
    pass


def run_in(folder: Path) -> Run:
    return Run(replace(EXPERIMENT, outputs=str(folder)))


def attempt(folder: Path, optim, trainer, stop_at: int | None = None):
    """Train, or continue; returns the metrics and what was kept. Like a kill, `stop_at` comes after a save."""
    run = run_in(folder)
    state = load_state(run)
    torch.manual_seed(0)
    model = loda.inject(load_base(EXPERIMENT.model, SHIPPED), loda.LodaConfig(LoDAPlus(dropout=0.1)))
    kept = {}

    def save(now):
        save_state(run, now)
        if now.step == stop_at:
            torch.rand(3)
            raise Stopped

    def keep(checkpoint):
        kept[checkpoint.step] = torch.cat([p.detach().flatten() for p in loda.trainable_parameters(model).values()])

    logger = MetricsLogger.open(run.metrics_file, LoggerConfig(), "run", {}, resume=state is not None)
    with prepared(model, trainer, packing=False), logger:
        done = Loop(model, EXAMPLES, 0, optim, trainer, state=state).run(logger, keep, save)
    return run.metrics_file.read_bytes(), kept, done


@pytest.fixture(scope="module")
def optim(request):
    """Gradients that are accumulated are not lost either."""
    return replace(OPTIM, gradient_accumulation_steps=request.param)


@pytest.fixture(scope="module")
def uninterrupted(optim, tmp_path_factory):
    return attempt(tmp_path_factory.mktemp("whole"), optim, TRAINER)


@pytest.mark.parametrize(
    ("optim", "stops"),
    [*((1, stops) for stops in ([1], [3], [4], [8], [1, 2, 5, 7, 8])), (3, [3, 6])],
    indirect=["optim"],
    ids=str,
)
def test_a_training_that_was_killed_goes_on_to_the_same_bits(stops, optim, uninterrupted, tmp_path):
    for step in stops:
        with pytest.raises(Stopped):
            attempt(tmp_path, optim, TRAINER, stop_at=step)
        with run_in(tmp_path).metrics_file.open("a") as metrics:
            metrics.write('{"step": 99, "half a li')  # what was logged after the state, and not to the end
    metrics, kept, done = attempt(tmp_path, optim, TRAINER)
    assert metrics == uninterrupted[0]
    assert torch.equal(kept[8], uninterrupted[1][8])
    assert done.final_loss == uninterrupted[2].final_loss
    assert done.resumed == len(stops)


@pytest.mark.parametrize("optim", [1, 3], indirect=True, ids=str)
@pytest.mark.parametrize(("where", "number"), [("target_loss", 5), ("log", 2), ("keep", 1)])
def test_an_error_anywhere_saves_the_last_update(where, number, optim, uninterrupted, tmp_path, monkeypatch):
    """In the fifth batch (after its dropout), in the second line of metrics, in the only checkpoint."""
    owner = {"target_loss": loop, "log": JsonLines, "keep": loda}[where]
    name = {"keep": "trainable_parameters"}.get(where, where)  # which `keep` calls
    real, calls = getattr(owner, name), []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == number + (where == "keep"):  # the loop asks for them first
            torch.rand(3)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    trainer = replace(TRAINER, state_interval_minutes=15.0)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(OSError, match="No space left"):
            attempt(tmp_path, optim, trainer)
    state = load_state(run_in(tmp_path))
    assert state is not None
    batches = {"target_loss": 4, "log": 6, "keep": 8}[where]
    update = optim.gradient_accumulation_steps
    assert state.step == (8 if where == "keep" else batches // update * update)
    metrics, kept, _ = attempt(tmp_path, optim, TRAINER)
    assert metrics == uninterrupted[0]
    assert torch.equal(kept[8], uninterrupted[1][8])


def test_an_update_that_was_broken_off_is_not_saved(tmp_path, monkeypatch):
    real, calls = torch._foreach_addcdiv_, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise Stopped
        real(*arguments)

    monkeypatch.setattr(torch, "_foreach_addcdiv_", failing)
    with pytest.raises(Stopped):
        attempt(tmp_path, OPTIM, TRAINER)
    assert load_state(run_in(tmp_path)).step == 4


def test_a_state_of_two_processes_is_not_resumed_by_one(tmp_path):
    with pytest.raises(Stopped):
        attempt(tmp_path, OPTIM, TRAINER, stop_at=4)
    state = load_state(run_in(tmp_path))
    assert state is not None
    generators = state.tensors["generator/cpu"]
    two = replace(state, step=5, tensors=state.tensors | {"generator/cpu": torch.cat([generators, generators])})
    save_state(run_in(tmp_path), two)
    with pytest.raises(LodaError, match="stopped with 2 processes and is resumed with 1"):
        attempt(tmp_path, OPTIM, TRAINER)


def test_a_loss_that_is_not_a_number_names_its_step_and_examples_and_leaves_the_last_good_state(tmp_path, monkeypatch):
    real, calls = loop.target_loss, []

    def diverging(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(loop, "target_loss", diverging)
    trainer = replace(TRAINER, log_every=50)
    with pytest.raises(LodaError, match=r"the loss is nan at step 5 \(examples \d, \d, \d\); lower optim.lr"):
        attempt(tmp_path, OPTIM, trainer)
    state = load_state(run_in(tmp_path))
    assert state is not None
    assert state.step == 4
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())


def test_parameters_that_are_not_numbers_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.ReferenceAdamW, "_correction", lambda self, t: float("inf") if t == 4 else 1.0)
    with pytest.raises(LodaError, match="is not finite after step 4"):
        attempt(tmp_path, OPTIM, TRAINER)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_waits_for_the_state_to_be_saved(number):
    shells = signal.signal(number, signal.SIG_DFL)  # a shell ignores SIGINT for what it starts in the background
    seen, before = [], [signal.getsignal(number) for number in SIGNALS]
    try:
        with pytest.raises(Interrupted, match=number.name), listening(), deferred():
            seen.append(os.kill(os.getpid(), number))
        assert seen == [None]  # it went on
        with pytest.raises(Interrupted, match=number.name), listening():
            os.kill(os.getpid(), number)
        assert [signal.getsignal(number) for number in SIGNALS] == before
    finally:
        signal.signal(number, shells)


def two_runs():
    with listening():
        with suppress(ZeroDivisionError), listening(), deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ZeroDivisionError
        with listening():
            pytest.fail("the next run began")


def test_a_signal_that_an_error_overtakes_stops_the_next_run():
    shells = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted, match="SIGTERM"):
            two_runs()
    finally:
        signal.signal(signal.SIGTERM, shells)


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda *_: None], ids=["nohup", "submitit"])
def test_a_signal_that_somebody_else_handles_is_left_to_them(theirs):
    before = signal.signal(signal.SIGHUP, theirs)
    try:
        with listening():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_saves_ends_with_the_code_that_requeues(tmp_path):
    command = [sys.executable, "train.py", *SHORT, "trainer.max_steps=400", "trainer.log_every=1"]
    command += [f"outputs={tmp_path / 'outputs'}"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    while not any(path.stat().st_size for path in tmp_path.glob("outputs/runs/*/metrics.jsonl")):  # until it trains
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == REQUEUE, errors
    assert "; the same command continues from here" in errors
    (state,) = tmp_path.glob("outputs/runs/*/state/step-*")
    (metrics,) = tmp_path.glob("outputs/runs/*/metrics.jsonl")
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert state.name == f"step-{last}"


def test_a_decoding_that_was_stopped_keeps_its_finished_batches(tmp_path, monkeypatch):
    whole, broken = (compose([*SHORT, f"outputs={tmp_path / name}"]) for name in ("whole", "broken"))
    run_experiment(whole)
    real, searched = decoding.search, []

    def stopping(model, batch, rules):
        searched.append(len(batch))
        if len(searched) == 3:
            raise Stopped
        return real(model, batch, rules)

    monkeypatch.setattr(decoding, "search", stopping)
    with pytest.raises(Stopped):
        run_experiment(broken)
    run_experiment(broken)
    assert searched == [8, 8, 8, 8, 8, 8]  # 40 contexts in five batches, one of them started twice
    found = {name: next((tmp_path / name).rglob("decode/**/predictions.jsonl")) for name in ("whole", "broken")}
    assert found["whole"].read_bytes() == found["broken"].read_bytes()
    assert not list(tmp_path.rglob("*.batches"))
