"""Every configuration composes, and a wrong setting ends in one sentence."""

from itertools import product
from pathlib import Path

import pytest

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
    assert experiment.method.adapter.name == adapter
    assert experiment.optim == compose([]).optim  # no other group has a say in the schedule


def test_groups_do_not_depend_on_their_order():
    options = ["model=toy", "dataset=toy", "optim=toy", "trainer=toy", "approx=rank38", "adapter=lora", "decode=greedy"]
    assert compose(options) == compose(options[::-1])


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("approx=none", ["approx=dense"]),
        ("approx=rank300", ["approx=low_rank"]),
        ("approx=rank500", ["approx=low_rank", "approx.rank=500"]),
        ("approx=keep40", ["approx=sparse"]),
        ("approx=keep60", ["approx=sparse", "approx.keep=0.6"]),
    ],
)
def test_short_names_of_approximations(short, long):
    assert compose([short]).method == compose(long).method


def test_the_defaults_are_the_papers_run():
    experiment = compose([])
    assert experiment.model.name == "gpt2_medium"
    assert experiment.dataset.name == "e2e"
    assert experiment.method.adapter.name == "loda_plus"
    # LoRA's Table 11
    adapter, optim, decode = experiment.method.adapter, experiment.optim, experiment.decode
    assert (adapter.r, adapter.alpha, adapter.dropout) == (4, 32, 0.1)
    assert (optim.lr, optim.weight_decay, optim.warmup_steps, optim.batch_size) == (2e-4, 0.01, 500, 8)
    assert (decode.num_beams, decode.length_penalty, decode.no_repeat_ngram_size) == (10, 0.9, 4)


def test_dart_has_its_own_hyper_parameters():
    experiment = compose(["dataset=dart"])
    assert experiment.method.adapter.dropout == 0
    assert (experiment.optim.weight_decay, experiment.optim.label_smoothing) == (0, 0)
    assert experiment.decode.length_penalty == 0.8


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["adapter=lodaplus"], ["loda, loda_plus, lora", "did you mean loda_plus?"]),
        (["adapter.rank=3"], ["adapter.rank", "has name, r, alpha", "+adapter.rank=VALUE"]),
        (["layers_to_transform=[a]"], ["layers_to_transform", "integer"]),
        (["adapter.rank=3", "approx=rank250"], ["approx=low_rank approx.rank=250"]),
        (["seed=4294967296"], ["seed=4294967296: input should be less than 4294967296"]),
        (["trainer.threads=100000"], ["trainer.threads=100000: input should be less than or equal to 1024"]),
        (["adapter.r=2,4"], ["add -m"]),
        (["dataset.path=/tmp/a,b"], ["one text with a comma 'dataset.path=\"/tmp/a,b\"'"]),
        (["epochs=1"], ["did you mean optim.epochs?"]),
        (["dataset.path=my (old) data"], ["two pairs of quotes"]),
        (["+adapter.rank=3"], ["adapter", "rank"]),
        (["adapter.r=1000000"], ["adapter.r=1000000", "less than or equal to 65536"]),
        (["adapter.r=0"], ["adapter.r=0", "greater than or equal to 1"]),
        (["approx=keep40", "approx.keep=1.2"], ["approx.keep=1.2", "less than or equal to 1"]),
        (["slices=qv"], ["slices='qv'", "array"]),
        (["~optim.lr"], ["optim.lr", "no value"]),
        (["optim.lr=-1"], ["optim.lr=-1", "greater than 0"]),
        (["optim.epochs=0"], ["optim.epochs=0", "greater than or equal to 1"]),
        (["optim.lr_schedule_epochs=3"], ["lr_schedule_epochs=3", "optim.epochs=5"]),
        (["optim.gradient_accumulation_steps=0"], ["optim.gradient_accumulation_steps=0"]),
        (
            ["adapter=prefix", "trainer.activation_checkpointing=true"],
            ["drops the cache", "adapter=prefix"],
        ),
        (["trainer.packing=true"], ["trainer.packing=True", "auto"]),
        (["trainer.device=tpu"], ["trainer.device", "cuda"]),
        (["decode.split=dev"], ["decode.split", "valid"]),
        (["decode.max_new_tokens=600"], ["max_new_tokens=600", "max_length=512"]),
        (["+target=[c_fc]"], ["target", "not a setting"]),
        (["+lr=1.0"], ["lr", "not a setting"]),
        (["model.name=../x"], ["model.name", "letters"]),
        (["seed=-1"], ["seed=-1", "greater than or equal to 0"]),
    ],
)
def test_a_wrong_setting_is_named(overrides, words):
    with pytest.raises(LodaError) as error:
        compose(overrides)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_group_file_can_be_found_from_anywhere(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose([]).dataset.name == "e2e"
