"""What `python -m scripts.status` says of runs that are not finished; a finished one is in tests/e2e."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from loda.lab.config import compose
from loda.lab.files import write_json
from loda.lab.lock import Holder, hold
from loda.lab.run import Outputs
from loda.lab.training.stage import describe
from scripts import status
from scripts.status import State

TOY = ["model=toy", "dataset=toy", "seed=0"]


@pytest.fixture
def outputs(tmp_path) -> Outputs:
    return Outputs(tmp_path)


@pytest.fixture
def run(outputs):
    experiment = compose([*TOY, f"outputs={outputs.root}"])
    folder = outputs.run(experiment)
    write_json(folder.experiment, describe(experiment))
    return folder


def log(run, step, epoch):
    run.journal.write_text(json.dumps({"step": step, "loss": 2.5, "lr": 0.1, "epoch": epoch}) + "\n" + '{"step": 9')


def test_a_run_that_was_begun_and_left_is_stopped(run, outputs):
    found = status.status(run, outputs)
    assert (found.state, found.detail) == (State.stopped, "prepare")


def test_a_run_that_was_left_before_its_settings_were_written_is_stopped_too(outputs):
    run = outputs.run_named("toy-toy-lora")
    with hold(run, wait=False):
        pass
    found = status.status(run, outputs)
    assert (found.state, found.detail) == (State.stopped, "prepare")


def test_a_training_run_says_how_far_it_is_and_what_is_left(run, outputs):
    log(run, step=100, epoch=100 / 60)  # of 5 epochs with 60 steps
    with hold(run, wait=False):
        since = datetime.now(UTC) - timedelta(seconds=50)
        write_json(run.running, Holder("here", 1, since.isoformat()))
        found = status.status(run, outputs)
    assert found.state is State.running
    assert found.detail == f"train 100/300, loss 2.500, process 1 on here since {since.isoformat()}"
    assert found.elapsed == pytest.approx(50, abs=2)
    assert found.left == pytest.approx(100, abs=4)


def test_a_failed_run_says_why(run, outputs):
    write_json(run.failed, {"overrides": "", "message": "Traceback\nValueError: no"})
    found = status.status(run, outputs)
    assert (found.state, found.detail) == (State.failed, "ValueError: no")


def test_a_run_of_another_version_is_not_taken_for_done(run, outputs):
    write_json(run.experiment, {"method": {}, "surprise": 1})
    assert status.status(run, outputs).state is State.stopped


def test_a_table_lists_what_is_missing_too(run, outputs, capsys):
    assert status.main(["table1", "--profile", "toy", "--outputs", str(outputs.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (mine,) = [line for line in lines if line.startswith(run.name)]
    assert "stopped" in mine
    assert f"1 stopped, {len(lines) - 2} missing" in lines[-1]


def test_a_table_is_looked_up_with_the_settings_of_its_runs(outputs, capsys):
    common = ["optim.lr=0.5", f"outputs={outputs.root}"]
    experiment = compose(["model=toy", "dataset=toy", "adapter=lora", "seed=0", *common])
    write_json(outputs.run(experiment).experiment, describe(experiment))
    assert status.main(["table1", "optim.lr=0.5", "--profile", "toy", "--outputs", str(outputs.root)]) == 0
    assert "1 stopped" in capsys.readouterr().out.splitlines()[-1]


def test_an_unknown_table_ends_in_one_sentence(outputs, capsys):
    assert status.main(["table9", "--outputs", str(outputs.root)]) == 2
    assert capsys.readouterr().err.startswith("error: unknown table 'table9'")
