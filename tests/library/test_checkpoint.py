"""Saving and loading: bit-exact for every pair of parts, and strict about everything that is not as it was saved."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import loda
from loda.adapter_files import APPROXIMATION_FILE, CONFIG_FILE, TENSOR_FILE
from loda.adapters import LoDA, LoDAPlus, LoRA
from loda.approx import LowRank
from loda.atomic import sha256
from loda.checkpoint import fingerprint
from loda.errors import LodaError
from loda.manifest import read_manifest, write_manifest
from loda.model import adapter_state
from tests.library.models import ADAPTERS, APPROXIMATIONS, logits, perturb, tiny_gpt2, train, untouched, wide_gpt2

LOWRANK = loda.LodaConfig(LoDAPlus(), LowRank(rank=8))
decompose = torch.linalg.eigh


@functools.cache
def approximated(name: str) -> dict[str, torch.Tensor]:
    """An approximation of `wide_gpt2`, computed once."""
    return loda.approximate(wide_gpt2(), loda.LodaConfig(LoRA(), APPROXIMATIONS[name]))


def on_meta_only(matrix):
    assert matrix.is_meta, "a decomposition was computed although the factors were at hand"
    return decompose(matrix)


@pytest.mark.parametrize("with_approximation", [False, True], ids=["recipe", "with_approximation"])
@pytest.mark.parametrize("approx", APPROXIMATIONS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_loaded_model_gives_the_same_logits_bit_for_bit(adapter, approx, with_approximation, tmp_path, monkeypatch):
    config = loda.LodaConfig(ADAPTERS[adapter], APPROXIMATIONS[approx])
    model = perturb(loda.inject(wide_gpt2(), config, approximated(approx)))
    loda.save_pretrained(model, tmp_path, with_approximation=with_approximation)
    if with_approximation:
        monkeypatch.setattr(torch.linalg, "eigh", on_meta_only)
    loaded = loda.from_pretrained(wide_gpt2(), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert loda.cost(loaded) == loda.cost(model)
    assert set(loda.trainable_parameters(loaded)) == set(adapter_state(model)) == set(load_file(tmp_path / TENSOR_FILE))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_of_half_precision_is_saved_and_loaded_as_such(adapter, tmp_path):
    config = loda.LodaConfig(ADAPTERS[adapter])
    model = perturb(loda.inject(tiny_gpt2().bfloat16(), config, autocast_adapter_dtype=False))
    loda.save_pretrained(model, tmp_path)
    loaded = loda.from_pretrained(tiny_gpt2().bfloat16(), tmp_path, autocast_adapter_dtype=False)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(loaded), logits(model))


@pytest.fixture
def saved(tmp_path):
    """A trained LoDA+ over low-rank factors of `tiny_gpt2`, saved with the factors."""
    model = loda.inject(tiny_gpt2(), LOWRANK)
    train(model)
    loda.save_pretrained(model, tmp_path / "adapter", with_approximation=True)
    return tmp_path / "adapter"


def refused(folder, rule: str, model=None, **settings) -> None:
    """Loading `folder` fails with `rule` and leaves the model as it was."""
    model = tiny_gpt2() if model is None else model
    with untouched(model), pytest.raises(LodaError, match=rule):
        loda.from_pretrained(model, folder, **settings)


def test_the_files_are_pefts_and_hold_the_adapter_alone(saved):
    assert {path.name for path in saved.iterdir()} == {CONFIG_FILE, TENSOR_FILE, APPROXIMATION_FILE}
    assert (CONFIG_FILE, TENSOR_FILE) == ("adapter_config.json", "adapter_model.safetensors")
    model = loda.inject(tiny_gpt2(), LOWRANK)
    tensors = load_file(saved / TENSOR_FILE)
    assert sum(t.numel() for t in tensors.values()) == loda.cost(model).trainable_parameters
    description = json.loads((saved / CONFIG_FILE).read_text())
    assert description["approx"] == {"name": "low_rank", "rank": 8}


def test_saving_again_without_the_approximation_leaves_no_old_one_but_other_files(saved):
    (saved / "README.md").write_text("a model card")
    loda.save_pretrained(loda.from_pretrained(tiny_gpt2(), saved), saved)
    assert {path.name for path in saved.iterdir()} == {CONFIG_FILE, TENSOR_FILE, "README.md"}
    loda.from_pretrained(tiny_gpt2(), saved)


def test_the_dense_weight_is_never_stored(tmp_path):
    loda.save_pretrained(loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA())), tmp_path, with_approximation=True)
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG_FILE, TENSOR_FILE}


@pytest.mark.parametrize("failing", ["save_tensors", "write_manifest"])
def test_an_adapter_survives_until_the_next_one_is_complete(saved, failing, monkeypatch):
    before, model = logits(loda.from_pretrained(tiny_gpt2(), saved)), loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA()))

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(loda.adapter_files, failing, fail)
        with pytest.raises(LodaError, match=r"could not write .*No space left"):
            loda.save_pretrained(model, saved)
    assert {path.name for path in saved.iterdir()} == {CONFIG_FILE, TENSOR_FILE, APPROXIMATION_FILE}
    assert torch.equal(logits(loda.from_pretrained(tiny_gpt2(), saved)), before)
    loda.save_pretrained(model, saved)
    assert torch.equal(logits(loda.from_pretrained(tiny_gpt2(), saved)), logits(tiny_gpt2()))


def test_a_known_fingerprint_is_not_computed_again(tmp_path, monkeypatch):
    model, known = loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA())), fingerprint(tiny_gpt2())
    monkeypatch.setattr(loda.checkpoint, "fingerprint", None)
    loda.save_pretrained(model, tmp_path, base_fingerprint=known)
    loda.from_pretrained(tiny_gpt2(), tmp_path, base_fingerprint=known)
    refused(tmp_path, "another base model", base_fingerprint="0" * 64)


def test_an_adapter_that_was_frozen_for_inference_is_saved_whole(tmp_path):
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoDA())))
    expected = loda.cost(model)
    model.requires_grad_(False)
    assert loda.cost(model) == expected
    loda.save_pretrained(model, tmp_path)
    assert torch.equal(logits(loda.from_pretrained(tiny_gpt2(), tmp_path)), logits(model))


def test_a_trained_tensor_that_would_be_lost_stops_the_saving(tmp_path):
    model = loda.inject(tiny_gpt2(), loda.LodaConfig(LoDA()))
    model.transformer.ln_f.requires_grad_(True)
    with pytest.raises(LodaError, match=r"transformer\.ln_f\.bias requires gradients but is no part of the adapter"):
        loda.save_pretrained(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_model_that_holds_adapters_is_refused(saved):
    refused(saved, "already holds adapters", perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoRA()))))


def test_another_base_is_refused(saved):
    refused(saved, "trained on another base model", tiny_gpt2(width=64))
    refused(saved, "in the same dtype", tiny_gpt2().double())
    model = tiny_gpt2()
    model.get_parameter("transformer.h.1.mlp.c_fc.bias").data[-1] += 1e-3  # a single number
    refused(saved, "trained on another base model", model)


@pytest.mark.parametrize("file", [CONFIG_FILE, TENSOR_FILE, APPROXIMATION_FILE])
def test_a_missing_file_is_named(saved, file):
    (saved / file).unlink()
    refused(saved, rf"{file} is missing")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff" * 100], ids=repr)
def test_a_file_that_is_no_configuration_is_named(saved, content):
    (saved / CONFIG_FILE).write_bytes(content)
    refused(saved, rf"{CONFIG_FILE} (is not JSON|is not a manifest)")


def edited_config(folder, edit) -> None:
    """Edit the configuration and give it a new hash."""
    description = read_manifest(folder / CONFIG_FILE)
    edit(description)
    write_manifest(folder / CONFIG_FILE, description)


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (lambda d: d.update(rank=8), "rank is not a setting; there are adapter, approx, slices"),
        (lambda d: d.pop("files"), "is not the configuration of a LoDA adapter"),
        (lambda d: d.update(slices=["q", "o"]), "has no slice 'o'"),
        (lambda d: d["adapter"].update(r=5), r"has shape and dtype .*, expected"),
        (lambda d: d["approx"].update(rank=7), r"the given approximation: .*W_A has shape"),
    ],
    ids=["setting", "files", "slice", "width", "rank"],
)
def test_an_edited_configuration_is_refused(saved, edit, rule):
    edited_config(saved, edit)
    refused(saved, rule)


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (lambda tensors, name: tensors.pop(name), "lacks the tensor {}"),
        (lambda tensors, name: tensors.update({name + "x": tensors[name].clone()}), "holds an unknown tensor {}x"),
        (lambda tensors, name: tensors.update({name: tensors[name][:-1].clone()}), "{} has shape and dtype"),
        (lambda tensors, name: tensors.update({name: tensors[name].double()}), "{} has shape and dtype"),
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_tensors_that_do_not_fit_are_named(saved, edit, rule):
    path = saved / TENSOR_FILE
    tensors = load_file(path)
    name = min(tensors)
    edit(tensors, name)
    save_file(tensors, path)
    edited_config(saved, lambda description: description["files"].update({path.name: sha256(path)}))
    refused(saved, rule.format(name))


def test_a_given_approximation_takes_precedence(saved, monkeypatch):
    expected = logits(loda.from_pretrained(tiny_gpt2(), saved))
    approximation = loda.approximate(tiny_gpt2(), LOWRANK)
    (saved / APPROXIMATION_FILE).unlink()
    monkeypatch.setattr(torch.linalg, "eigh", on_meta_only)
    assert torch.equal(logits(loda.from_pretrained(tiny_gpt2(), saved, approximation=approximation)), expected)
