"""Every configuration composes, and a wrong setting ends in one sentence."""

from itertools import product
from pathlib import Path

import pytest

from loda.config import part_name
from loda.errors import LodaError
from loda.lab.config import CONFIG_FOLDER, compose

GROUPS = {folder.name: sorted(p.stem for p in folder.glob("*.yaml")) for folder in CONFIG_FOLDER.iterdir()
          if folder.is_dir() and folder.name != "table"}  # fmt: skip


@pytest.mark.parametrize("option", [f"{group}={name}" for group, names in GROUPS.items() for name in names])
def test_every_group_file_composes(option):
    compose([option, *(["model.path=my_model"] if option == "model=local" else [])])


@pytest.mark.parametrize(("adapter", "approx"), list(product(GROUPS["adapter"], GROUPS["approx"])))
def test_every_method_composes(adapter, approx):
    experiment = compose([f"adapter={adapter}", f"approx={approx}"])
    assert part_name(experiment.method.adapter) == adapter
    # R- and S- variants keep epochs 5 and 10, as the paper does
    expected = (5, ()) if approx == "none" else (10, (5,))
    assert (experiment.optim.epochs, experiment.optim.keep_epochs) == expected


def test_the_defaults_are_the_papers_run():
    experiment = compose([])
    assert experiment.model.name == "gpt2_medium"
    assert experiment.dataset.name == "e2e"
    assert part_name(experiment.method.adapter) == "loda_plus"
    # LoRA's Table 11
    adapter, optim, decode = experiment.method.adapter, experiment.optim, experiment.decode
    assert (adapter.r, adapter.alpha, adapter.dropout) == (4, 32, 0.1)
    assert (optim.lr, optim.weight_decay, optim.warmup_steps, optim.batch_size) == (2e-4, 0.01, 500, 8)
    assert (decode.num_beams, decode.length_penalty, decode.no_repeat_ngram_size) == (10, 0.9, 4)


def test_dart_has_its_own_recipe():
    experiment = compose(["dataset=dart"])
    assert experiment.method.adapter.dropout == 0
    assert (experiment.optim.weight_decay, experiment.optim.label_smoothing) == (0, 0)
    assert experiment.decode.length_penalty == 0.8


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["adapter=lodaa"], ["adapter/lodaa"]),
        (["adapter.rank=3"], ["adapter.rank"]),
        (["+adapter.rank=3"], ["adapter", "rank"]),
        (["adapter.r=four"], ["adapter", "four"]),
        (["adapter.r=0"], ["r=0", "at least 1"]),
        (["adapter.alpha=0"], ["alpha", "positive"]),
        (["adapter.dropout=1"], ["dropout", "[0, 1)"]),
        (["adapter.f1.order=activation"], ["f1.order", "linear"]),
        (["adapter.f2.order=linear-activation"], ["f2.order", "linear"]),
        (["approx=keep40", "approx.keep=0"], ["keep=0", "(0, 1]"]),
        (["approx=keep40", "approx.keep=1.2"], ["keep=1.2", "(0, 1]"]),
        (["approx=rank300", "approx.rank=0"], ["rank=0", "at least 1"]),
        (["slices=[]"], ["slices"]),
        (["slices=qv"], ["slices='qv'", "list"]),
        (["adapter.f1=3"], ["adapter.f1=3", "group"]),
        (["~optim.lr"], ["optim.lr", "no value"]),
        (["optim.lr=-1"], ["optim.lr", "positive"]),
        (["optim.epochs=0"], ["optim.epochs", "at least 1"]),
        (["optim.schedule_epochs=3"], ["schedule_epochs=3", "optim.epochs=5"]),
        (["optim.accumulate=0"], ["optim.accumulate", "at least 1"]),
        (
            ["adapter=prefix", "trainer.activation_checkpointing=true"],
            ["drops the cache", "adapter=prefix"],
        ),
        (["trainer.order=sorted"], ["trainer.order", "reference, bucketed"]),
        (["trainer.device=tpu"], ["trainer.device", "cuda"]),
        (["decode.split=dev"], ["decode.split", "valid"]),
        (["decode.max_new_tokens=600"], ["max_new_tokens=600", "max_length=512"]),
        (["seed=-1"], ["seed=-1", "at least 0"]),
    ],
)
def test_a_wrong_setting_is_named(overrides, words):
    with pytest.raises(LodaError) as error:
        compose(overrides)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_seed_zero_is_a_seed():
    assert compose(["seed=0"]).seed == 0


def test_a_group_file_can_be_found_from_anywhere(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose([]).dataset.name == "e2e"
