"""What `python -m scripts status` says of runs that are not finished; a finished one is in test_toy_path."""

import errno
import json
import os
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
    return status.status_of_folder(Outputs(run.root), run.path, run.settings())


def test_a_run_that_was_started_and_left_is_stopped(run):
    assert (look(run).state, look(run).detail) == ("stopped", "prepare")


def test_a_run_that_was_left_before_its_settings_were_written_is_stopped_too(tmp_path):
    path = tmp_path / "runs" / "toy-toy-lora"
    with lock_run(path, wait=False):
        pass
    found = status.status_of_folder(Outputs(tmp_path), path, None)
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


def started(run: Run, seconds_ago: float) -> None:
    since = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()
    (run.path / "running.json").write_text(json.dumps({"host": "here", "process": 1, "since": since}))


def test_the_time_left_of_a_resumed_run_counts_the_steps_with_their_time(run):
    run.metrics_file.write_text(json.dumps({"step": 101, "loss": 2.5}) + "\n")
    run.state(100).write(content={"step": 100, "seconds": 500.0})
    with lock_run(run.path, wait=False):
        started(run, seconds_ago=5)
        assert look(run).left == pytest.approx(199 * 5, abs=1)


def test_a_clock_that_was_set_back_says_nothing_of_the_time(run):
    run.metrics_file.write_text(json.dumps({"step": 100, "loss": 2.5}) + "\n")
    with lock_run(run.path, wait=False):
        started(run, seconds_ago=-3600)
        found = look(run)
    assert (found.state, found.elapsed, found.left) == ("running", None, None)
    assert "-1 day" not in status.render([found])


def test_runs_that_differ_in_other_settings_are_told_apart(run, capsys):
    other = Run(compose([*TOY, "optim.lr=0.5", f"outputs={run.root}"]))
    other.settings().write(content=other.experiment.to_dict())
    assert status.main(["--outputs", str(run.root)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[:2]}
    assert "optim.lr=0.5" in lines[other.name]
    assert f"optim.lr={run.experiment.optim.lr}" in lines[run.name]
    assert "outputs=" not in lines[run.name]


def test_two_ways_to_decode_one_run_are_two_lines(run, capsys):
    other = Run(compose([*TOY, "decode=one_shot", f"outputs={run.root}"]))
    assert other.path == run.path
    other.settings().write(content=other.experiment.to_dict())
    assert status.main(["--outputs", str(run.root)]) == 0
    first, second, total = capsys.readouterr().out.splitlines()
    assert "decode.prompt.template=" in first
    assert "decode.prompt.template=" in second
    assert total.startswith("2 runs: 2 stopped")


def test_the_rows_of_a_table_are_told_apart_where_they_share_a_folder(tmp_path, capsys):
    assert status.main(["table1", "--profile", "toy", "--outputs", str(tmp_path)]) == 0
    shared = [line for line in capsys.readouterr().out.splitlines() if line.startswith("toy-toy-none-")]
    assert len(shared) == 2
    assert "GPT2 (unadapted), seed 0" in shared[0]
    assert "One-shot, seed 0" in shared[1]


def test_a_failed_run_says_why(run):
    run.failed_file.write_text(json.dumps({"overrides": "", "message": "Traceback\nValueError: no"}))
    assert (look(run).state, look(run).detail) == ("failed", "ValueError: no")


def test_a_run_that_was_refused_before_it_had_settings_says_why(tmp_path):
    path = tmp_path / "runs" / "toy-toy-lora"
    path.mkdir(parents=True)
    (path / "failed.json").write_text(json.dumps({"overrides": "", "message": "no such base"}))
    found = status.status_of_folder(Outputs(tmp_path), path, None)
    assert (found.state, found.detail) == ("failed", "no such base")


def test_a_run_whose_settings_are_damaged_does_not_hide_the_others(run, capsys):
    (run.settings().path / "manifest.json").write_text("[]")
    assert status.main(["--outputs", str(run.root)]) == 0
    shown = capsys.readouterr().out
    assert "settings/manifest.json is not a manifest of this project" in shown
    assert "1 runs: 1 unknown" in shown


def refuse(path, *arguments):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def test_of_a_run_whose_lock_cannot_be_opened_nobody_can_tell(run, capsys, monkeypatch):
    (run.path / "lock").touch()
    monkeypatch.setattr(os, "open", refuse)
    assert status.main(["--outputs", str(run.root)]) == 0
    shown = capsys.readouterr().out
    assert f"cannot tell whether {run.name} is being worked on: " in shown
    assert "1 runs: 1 unknown" in shown


@pytest.mark.parametrize("damaged", ["[]", "{}", '{"overrides": "", "message": 5}', "[" * 10**5, ""])
def test_a_damaged_note_of_a_failure_says_so(damaged, run, capsys):
    run.failed_file.write_text(damaged)
    assert status.main(["--outputs", str(run.root)]) == 0
    shown = capsys.readouterr().out
    assert "failed.json" in shown
    assert "1 runs: 1 failed" in shown


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
