"""Identity of runs and atomic files."""

import shutil
from pathlib import Path

import pytest

from loda.atomic import write_folder, write_text
from loda.lab.base.files import SHIPPED
from loda.lab.config import compose
from loda.lab.files import write_json
from loda.lab.fingerprint import decode_key, train_key, train_settings
from loda.lab.run import Outputs

TOY = ["model=toy", "dataset=toy"]


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "adapter.r=8",
        "adapter.f1.order=linear-activation",
        "approx=keep40",
        "slices=[q]",
        "optim.lr=1e-4",
        "optim.accumulate=2",
        "trainer.max_steps=3",
        "trainer.order=bucketed",
        "trainer.precision=bf16",
        "dataset.max_length=200",
        "trainer.fast=true",
        "trainer.compile=true",
    ],
)
def test_what_changes_the_result_changes_the_run(change):
    assert train_key(compose([*TOY, change])) != train_key(compose(TOY))


@pytest.mark.parametrize(
    "change",
    [
        "trainer.device=cpu",
        "trainer.threads=2",
        "trainer.activation_checkpointing=true",
        "trainer.log_every=7",
        "logger=wandb",
        "decode.batch_size=3",
        "outputs=x",
    ],
)
def test_what_does_not_change_the_result_does_not(change):
    assert train_key(compose([*TOY, change])) == train_key(compose(TOY))
    assert decode_key(compose([*TOY, change])) == decode_key(compose(TOY))


def test_settings_of_later_versions_leave_the_names_of_earlier_runs_alone():
    settings = train_settings(compose(TOY))
    assert "accumulate" not in settings["optim"]
    assert settings["trainer"].keys() == {"precision", "order", "max_steps"}


def test_decoding_does_not_change_the_training():
    beams = compose([*TOY, "decode.num_beams=2"])
    assert train_key(beams) == train_key(compose(TOY))
    assert decode_key(beams) != decode_key(compose(TOY))


def test_a_local_copy_of_the_base_gives_the_same_run(tmp_path):
    copy = shutil.copytree(SHIPPED, tmp_path / "base")
    assert train_key(compose([*TOY, f"model.path={copy}"])) == train_key(compose(TOY))


def test_run_names_can_be_read():
    run = Outputs(Path("outputs")).run(compose([*TOY, "approx=rank38", "seed=3"]))
    assert run.name.startswith("toy-toy-loda_plus-r4-lowrank38-s3-")


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})

    def half(folder):
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "folder", half)
    assert list(tmp_path.iterdir()) == []


def test_a_write_replaces_the_whole_file(tmp_path):
    write_text(tmp_path / "a.txt", "a long first text\n")
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é\n"
