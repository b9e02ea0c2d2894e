"""A stage is complete, current and sound, or it is made again or refused."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loda.errors import LodaError
from loda.lab.stage import MANIFEST, Stage, verify


def make(stage: Stage, text: str = "one"):
    return stage.write(lambda folder: (folder / "a.txt").write_text(text), {"n": 1}, {"host": "here"})


@pytest.fixture
def stage(tmp_path) -> Stage:
    return Stage(tmp_path, "runs/x/decode", "decoding", "key")


def test_a_stage_is_not_there_until_it_is_written(stage):
    assert stage.find() is None
    manifest = make(stage)
    assert stage.find() == stage.load() == manifest
    assert manifest.content == {"n": 1}
    assert (stage.path / "a.txt").read_text() == "one"


def test_a_folder_without_a_manifest_is_not_a_stage(stage):
    make(stage)
    (stage.path / MANIFEST).unlink()
    assert stage.find() is None
    make(stage, "two")
    assert (stage.path / "a.txt").read_text() == "two"


def test_another_key_or_other_inputs_make_it_stale_and_writing_replaces_it(stage, tmp_path):
    first, other = (make(Stage(tmp_path, f"runs/x/{name}", "checkpoint"), name) for name in ("a", "b"))
    stage = Stage(tmp_path, "runs/x/decode", "decoding", "key", (first,))
    make(stage)
    for changed in (
        Stage(tmp_path, "runs/x/decode", "decoding", "another", (first,)),
        Stage(tmp_path, "runs/x/decode", "decoding", "key", (other,)),
        Stage(tmp_path, "runs/x/decode", "decoding", "key", (first, other)),
    ):
        assert changed.find() is None
        with pytest.raises(LodaError, match="run the same command again"):
            changed.load()
    make(changed, "new")
    assert (stage.path / "a.txt").read_text() == "new"


def test_the_same_bytes_made_at_another_time_are_the_same_input(stage):
    first = make(stage)
    shutil.rmtree(stage.path)
    again = stage.write(lambda folder: (folder / "a.txt").write_text("one"), {"n": 1}, {"host": "elsewhere"})
    assert again != first
    assert again.digest == first.digest


def test_a_stage_of_another_kind_is_refused(stage, tmp_path):
    make(stage)
    with pytest.raises(LodaError, match="holds a decoding where a scoring belongs"):
        Stage(tmp_path, stage.place, "scoring", "key").find()


def test_a_changed_input_is_found_by_verify(tmp_path):
    checkpoint = Stage(tmp_path, "runs/x/checkpoint", "checkpoint")
    decoding = Stage(tmp_path, "runs/x/decode", "decoding", inputs=(make(checkpoint),))
    make(decoding)
    verify(tmp_path, decoding.place)
    shutil.rmtree(checkpoint.path)
    make(checkpoint, "trained again")
    with pytest.raises(LodaError, match="was made from another runs/x/checkpoint"):
        verify(tmp_path, decoding.place)


@given(place=st.floats(0, 1), bit=st.integers(0, 7), name=st.sampled_from([MANIFEST, "a.txt"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_bit_of_every_file_counts(place, bit, name, tmp_path_factory):
    stage = Stage(tmp_path_factory.mktemp("root"), "runs/x/decode", "decoding", "key")
    make(stage)
    path = stage.path / name
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(LodaError, match=name):
        stage.load()
    with pytest.raises(LodaError, match=name):
        verify(stage.root, stage.place)


@pytest.mark.parametrize("damage", ["[]", "{}", "null", "[" * 10**5, "", '{"format": 1}', '{"sha256": ""}'])
def test_what_is_not_a_manifest_is_refused_by_name(stage, damage):
    make(stage)
    (stage.path / MANIFEST).write_text(damage)
    with pytest.raises(LodaError, match=MANIFEST):
        stage.find()


def test_a_stage_that_another_process_made_meanwhile_stays(stage):
    def slow(folder: Path) -> None:
        make(stage, "theirs")
        (folder / "a.txt").write_text("mine")

    stage.write(slow, {"n": 1})
    assert (stage.path / "a.txt").read_text() == "theirs"
    assert not list(stage.root.rglob(".*"))


def test_an_interrupted_write_leaves_nothing(stage):
    def half(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.write(half)
    assert stage.find() is None
    assert not [path for path in stage.root.rglob("*") if path.is_file()]
