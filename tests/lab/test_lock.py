"""Two processes never work on one run; the lock of a dead one is free."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from loda.errors import LodaError
from loda.lab.lock import HeldError, check_held, hold, holder
from loda.lab.run import Outputs, RunDir

HOLD = """
import sys, time
from pathlib import Path
from loda.lab.lock import hold
from loda.lab.run import RunDir
with hold(RunDir(Path(sys.argv[1])), wait=True):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_holder(run: RunDir, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, run.path, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_a_run_that_another_process_works_on_is_refused_by_name(run):
    with start_holder(run, 60) as other:
        with pytest.raises(HeldError, match=f"run is being worked on by process {other.pid} on"), hold(run, wait=False):
            pass
        assert holder(run).process == other.pid
        other.kill()


def test_a_waiting_process_goes_on_when_the_other_has_finished(run, capsys):
    started = time.monotonic()
    with start_holder(run, 2), hold(run, wait=True):
        waited = time.monotonic() - started
        assert holder(run).process == os.getpid()
    assert waited >= 2
    assert "waiting for it" in capsys.readouterr().out


def test_the_lock_of_a_killed_process_is_free(run):
    with start_holder(run, 60) as other:
        other.kill()
    assert holder(run) is None
    with hold(run, wait=False):
        pass
    assert holder(run) is None


def test_a_failure_inside_frees_the_run(run):
    with pytest.raises(ValueError, match="mine"), hold(run, wait=False):
        raise ValueError("mine")
    assert not run.running.exists()
    with hold(run, wait=False):
        pass


def test_a_folder_that_another_process_began_anew_is_not_written_to(tmp_path):
    run = Outputs(tmp_path).run_named("one")
    with hold(run, wait=False):
        shutil.rmtree(run.path)
        with hold(run, wait=False):
            check_held(run)
        run.path.mkdir(exist_ok=True)
        with pytest.raises(LodaError, match="has vanished while it was being worked on"):
            check_held(run)
