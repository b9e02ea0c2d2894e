"""What determines a run is in its name, and nothing else is."""

import shutil

import pytest

from loda.lab.base.files import SHIPPED
from loda.lab.config import compose
from loda.lab.data.toy import FILES
from loda.lab.run import Run

TOY = ["model=toy", "dataset=toy"]


def run(*overrides: str) -> Run:
    return Run(compose([*TOY, *overrides]))


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "adapter.r=8",
        "adapter.f1.order=linear-activation",
        "approx=keep40",
        "slices=[q]",
        "optim.lr=1e-4",
        "optim.gradient_accumulation_steps=2",
        "trainer.max_steps=3",
        "trainer.packing=off",
        "trainer.precision=bf16",
        "trainer.compile=true",
        "dataset.max_length=200",
    ],
)
def test_what_changes_the_result_changes_the_run(change):
    assert run(change).name != run().name


@pytest.mark.parametrize(
    "change",
    [
        "trainer.device=cpu",
        "trainer.threads=2",
        "trainer.packing=on",
        "trainer.activation_checkpointing=true",
        "trainer.log_every=7",
        "logger=wandb",
        "decode.batch_size=3",
        "outputs=x",
        f"dataset.path={FILES['train'].folder}",
    ],
)
def test_what_does_not_change_the_result_does_not(change):
    assert run(change).name == run().name
    assert run(change).decode_key == run().decode_key


def test_decoding_does_not_change_the_training():
    assert run("decode.num_beams=2").name == run().name
    keys = [run(*c).decode_key for c in ((), ("decode.num_beams=2",), ("decode.optimized=true",))]
    keys += [run("decode.optimized=true", "decode.int8=true").decode_key, run("decode.bf16=true").decode_key]
    assert len(set(keys)) == 5


def test_a_local_copy_of_the_base_gives_the_same_run_and_another_content_does_not(tmp_path):
    copy = shutil.copytree(SHIPPED, tmp_path / "base")
    assert run(f"model.path={copy}").name == run().name
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert run(f"model.path={copy}").name != run().name


def test_run_names_can_be_read():
    assert run("approx=rank38", "seed=3").name.startswith("toy-toy-loda_plus-r4-low_rank38-s3-")
    named = run("approx=rank38", "seed=3", "+approx.rank_pattern.a=4").name
    assert named.startswith("toy-toy-loda_plus-r4-low_rank38-s3-")  # a rank for every module would be no name
    assert named != run("approx=rank38", "seed=3").name
    assert run("approx=auto", "approx.budget=0.5").name.startswith("toy-toy-loda_plus-r4-low_rank0.5-allocationprobed-")


def test_an_approximation_is_shared_by_all_runs_on_the_same_base():
    assert run("approx=rank38", "seed=1", "adapter=lora").approximation() == run("approx=rank38").approximation()
    assert run("approx=keep40").approximation() != run("approx=rank38").approximation()
    assert run("adapter=lora").approximation() is None


def test_a_plan_of_another_version_is_another_plan(monkeypatch):
    planned, fixed = ["approx=auto", "approx.budget=0.5"], ["approx=rank38"]
    before = [run(*settings).approximation().place for settings in (planned, fixed)]
    monkeypatch.setattr("loda.lab.run.PLAN_VERSION", -1)
    after = [run(*settings).approximation().place for settings in (planned, fixed)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]
