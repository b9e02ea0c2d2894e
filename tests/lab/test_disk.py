"""A disk that is full, read-only or gone: one sentence, nothing half-written, and the next attempt goes on."""

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import loda.atomic
from loda.atomic import check_writable, write_file, write_folder, write_text
from loda.errors import LodaError
from loda.lab.config import LoggerConfig, compose
from loda.lab.lock import lock_run
from loda.lab.run import Run
from loda.lab.training.metrics_logger import MetricsLogger
from tests.conftest import run_experiment

SHORT = ["model=toy", "dataset=toy", "adapter=lora", "approx=rank38", "optim=toy", "trainer=toy",
         "trainer.max_steps=2", "decode.num_beams=1",
                 "decode.max_new_tokens=4", "dataset.metrics=[bleu]", "seed=0"]  # fmt: skip


class Disk:
    """Counts what is flushed to it and, once it is full, refuses."""

    def __init__(self, room: int, reason: int) -> None:
        self.room, self.reason = room, reason

    def fsync(self, descriptor: int) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(self.reason, os.strerror(self.reason))


class Cut:
    """A disk that keeps only what was flushed when the power is cut: for every folder the entries of that moment."""

    def __init__(self) -> None:
        self.entries: dict[Path, set[str]] = {}
        self.files: set[int] = set()

    def fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self.entries[path] = {entry.name for entry in path.iterdir()}
        else:
            self.files.add(os.fstat(descriptor).st_ino)

    def lost(self, root: Path) -> list[Path]:
        """What below `root`, with `root` itself, a power cut would take."""
        found = []
        for path in (root, *root.rglob("*")):
            # A folder that is renamed as a whole was flushed under its temporary name.
            names = self.entries.get(path.parent)
            kept = names is None or path.name in names
            if not kept or (path.is_file() and path.stat().st_ino not in self.files):
                found.append(path)
        return found


def test_a_power_cut_after_the_end_loses_nothing(tmp_path, monkeypatch):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system has no /proc")
    cut, outputs = Cut(), tmp_path / "new" / "outputs"
    monkeypatch.setattr(loda.atomic.os, "fsync", cut.fsync)
    (record,) = run_experiment(compose([*SHORT, f"outputs={outputs}"]))
    run = outputs / "runs" / record.run
    assert {tmp_path, tmp_path / "new", outputs, outputs / "runs", run, run / "decode"} <= set(cut.entries)
    assert {path.name for path in cut.lost(tmp_path / "new")} <= {"lock"}


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_what_cannot_be_written_leaves_what_was_there(reason, tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    write_folder(tmp_path / "folder", lambda folder: (folder / "b").write_text("old"))
    monkeypatch.setattr(loda.atomic.os, "fsync", Disk(0, reason).fsync)
    with pytest.raises(LodaError, match=f"could not write .*a.txt: {os.strerror(reason)}"):
        write_text(tmp_path / "a.txt", "new")
    with pytest.raises(LodaError, match=r"could not write .*other"):
        write_folder(tmp_path / "other", lambda folder: (folder / "b").write_text("new"))
    assert {path.name for path in tmp_path.rglob("*")} == {"a.txt", "folder", "b"}
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("room", [0, 7, 18])
def test_a_run_on_a_full_disk_says_so_and_resumes_after_space_is_made(room, tmp_path, monkeypatch):
    experiment = compose([*SHORT, f"outputs={tmp_path / 'outputs'}"])
    with monkeypatch.context() as patch:
        patch.setattr(loda.atomic.os, "fsync", Disk(room, errno.ENOSPC).fsync)
        with pytest.raises(LodaError, match=r"could not write .*: No space left on device"):
            run_experiment(experiment)
    assert not list(tmp_path.rglob(".*"))
    (record,) = run_experiment(experiment)
    assert record.run == Run(experiment).name


def test_a_real_disk_of_64_kilobytes(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting needs the rights of an administrator")
    try:
        write_text(small / "a.txt", "old")
        for content in ("x" * 10**6, "y" * 10**5):
            with pytest.raises(LodaError, match=r"could not write .*a.txt: No space left on device"):
                write_text(small / "a.txt", content)
        assert [path.read_text() for path in small.iterdir()] == ["old"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_metrics_on_a_full_disk(tmp_path):
    if not Path("/dev/full").is_char_device():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    logger = MetricsLogger.open(tmp_path / "metrics.jsonl", LoggerConfig(), "run", {}, resume=False)
    with pytest.raises(LodaError, match=r"could not write .*metrics.jsonl: No space left"):
        logger.log(1, loss=1.0)


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "outputs").write_text("")
    with pytest.raises(LodaError, match=r"could not use .*outputs"):
        run_experiment(compose([*SHORT, f"outputs={tmp_path / 'outputs'}"]))
    with pytest.raises(LodaError, match=r"could not write"), lock_run(tmp_path / "outputs" / "x", wait=False):
        pass


def test_a_folder_that_vanishes_while_it_is_written(tmp_path):
    def vanish(temporary: Path) -> None:
        temporary.write_text("new")
        shutil.rmtree(tmp_path / "folder")

    with pytest.raises(LodaError, match="No such file or directory"):
        write_file(tmp_path / "folder" / "a.txt", vanish)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_and_folders_follow_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "")
        write_folder(tmp_path / "folder", lambda folder: (folder / "b").touch())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"a.txt": 0o666 & ~mask, "folder": 0o777 & ~mask, "b": 0o666 & ~mask}


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    check_writable(pipe)
    write_text(pipe, "through")
    assert reader.communicate(timeout=60)[0] == "through"
    assert pipe.is_fifo()
