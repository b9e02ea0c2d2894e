"""What `python -m scripts status` says of runs that are not finished; a finished one is in test_toy_path."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from loda.lab.config import compose
from loda.lab.lock import lock_run
from loda.lab.run import Outputs, Run
from scripts import status

TOY = ["model=toy", "dataset=toy", "optim=toy", "trainer=toy", "seed=0"]


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run(compose([*TOY, f"outputs={tmp_path}"]))
    run.settings().write(content=run.experiment.to_dict())
    return run


def look(run: Run) -> status.Status:
    return status.status_of_folder(Outputs(run.root), run.path)


def test_a_run_that_was_started_and_left_is_stopped(run):
    assert (look(run).state, look(run).detail) == ("stopped", "prepare")


def test_a_run_that_was_left_before_its_settings_were_written_is_stopped_too(tmp_path):
    path = tmp_path / "runs" / "toy-toy-lora"
    with lock_run(path, wait=False):
        pass
    found = status.status_of_folder(Outputs(tmp_path), path)
    assert (found.state, found.detail) == ("stopped", "prepare")


def test_a_training_run_says_how_far_it_is_and_what_is_left(run):
    line = {"step": 100, "loss": 2.5, "lr": 0.1, "epoch": 100 / 60}  # of 5 epochs with 60 steps
    run.metrics_file.write_text(json.dumps(line) + "\n" + '{"step": 9')
    with lock_run(run.path, wait=False):
        since = (datetime.now(UTC) - timedelta(seconds=50)).isoformat()
        (run.path / "running.json").write_text(json.dumps({"host": "here", "process": 1, "since": since}))
        found = look(run)
    assert found.state == "running"
    assert found.detail == f"train 100/300, loss 2.500, process 1 on here since {since}"
    assert found.elapsed == pytest.approx(50, abs=2)
    assert found.left == pytest.approx(100, abs=4)


def test_a_failed_run_says_why(run):
    run.failed_file.write_text(json.dumps({"overrides": "", "message": "Traceback\nValueError: no"}))
    assert (look(run).state, look(run).detail) == ("failed", "ValueError: no")


def test_a_run_that_was_refused_before_it_had_settings_says_why(tmp_path):
    path = tmp_path / "runs" / "toy-toy-lora"
    path.mkdir(parents=True)
    (path / "failed.json").write_text(json.dumps({"overrides": "", "message": "no such base"}))
    found = status.status_of_folder(Outputs(tmp_path), path)
    assert (found.state, found.detail) == ("failed", "no such base")


def test_a_run_whose_settings_are_damaged_does_not_hide_the_others(run, capsys):
    (run.path / "settings" / "manifest.json").write_text("[]")
    assert "cannot be judged" in look(run).detail
    assert status.main(["--outputs", str(run.root)]) == 0
    assert "1 runs: 1 stopped" in capsys.readouterr().out


def test_a_table_lists_what_is_missing_too(run, capsys):
    assert status.main(["table1", "--profile", "toy", "--outputs", str(run.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (mine,) = [line for line in lines if line.startswith(run.name)]
    assert "stopped" in mine
    assert f"1 stopped, {len(lines) - 2} missing" in lines[-1]


def test_a_table_is_looked_up_with_the_settings_of_its_runs(tmp_path, capsys):
    run = Run(compose([*TOY, "adapter=lora", "optim.lr=0.5", f"outputs={tmp_path}"]))
    run.settings().write(content=run.experiment.to_dict())
    assert status.main(["table1", "optim.lr=0.5", "--profile", "toy", "--outputs", str(tmp_path)]) == 0
    assert "1 stopped" in capsys.readouterr().out.splitlines()[-1]
