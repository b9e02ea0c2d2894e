"""Two processes never work on one run; the lock of a dead one is free."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loda.lab.lock import LockedError, lock_owner, lock_run

HOLD = """
import sys, time
from pathlib import Path
from loda.lab.lock import lock_run
with lock_run(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_owner(run: Path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, run, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


def test_a_run_that_another_process_works_on_is_refused_by_name(run):
    with start_owner(run, 60) as other:
        with (
            pytest.raises(LockedError, match=f"run is being worked on by process {other.pid} on"),
            lock_run(run, wait=False),
        ):
            pass
        assert lock_owner(run).process == other.pid
        other.kill()


def test_a_waiting_process_continues_when_the_other_has_finished(run, capsys):
    started = time.monotonic()
    with start_owner(run, 2), lock_run(run, wait=True):
        waited = time.monotonic() - started
        assert lock_owner(run).process == os.getpid()
    assert waited >= 2
    assert "waiting for it" in capsys.readouterr().out


def test_the_lock_of_a_killed_process_is_free(run):
    with start_owner(run, 60) as other:
        other.kill()
    assert lock_owner(run) is None
    with lock_run(run, wait=False):
        pass
    assert lock_owner(run) is None


def test_a_failure_inside_frees_the_run(run):
    with pytest.raises(ValueError, match="mine"), lock_run(run, wait=False):
        raise ValueError("mine")
    assert not (run / "running.json").exists()
    with lock_run(run, wait=False):
        pass
