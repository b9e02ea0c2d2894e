"""Adapter files as nobody should write them: one sentence and an unchanged model, or the function that was saved."""

import copy
import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import loda
from loda.adapter_files import APPROXIMATION_FILE, CONFIG_FILE, TENSOR_FILE
from loda.adapters import LoDAPlus
from loda.approx import LowRank
from loda.atomic import sha256
from loda.errors import LodaError
from loda.manifest import read_manifest, write_manifest
from tests.library.models import logits, perturb, tiny_gpt2, untouched

BUDGET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BASE = tiny_gpt2()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = perturb(loda.inject(tiny_gpt2(), loda.LodaConfig(LoDAPlus(), LowRank(rank=8))))
    loda.save_pretrained(model, folder, with_approximation=True)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}, logits(model)


@pytest.fixture
def saved(original):
    """The folder, whole again for each test."""
    folder, files, _ = original
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def seal(folder, edit=lambda content: None) -> None:
    """Edit the configuration, and let it vouch for the files as they are."""
    content = read_manifest(folder / CONFIG_FILE)
    content["files"] = {name: sha256(folder / name) for name in content["files"]}
    edit(content)
    write_manifest(folder / CONFIG_FILE, content)


def refused(folder, rule: str = "") -> None:
    with untouched(BASE), pytest.raises(LodaError, match=rule) as error:
        loda.from_pretrained(BASE, folder)
    assert len(str(error.value)) < 700


def nested(depth: int) -> object:
    value: object = []
    for _ in range(depth):
        value = [value]
    return value


EDITS = {
    "r huge": (lambda c: c["adapter"].update(r=10**12), r"adapter\.r=1000000000000: .*less than or equal"),
    "r a float": (lambda c: c["adapter"].update(r=1e12), r"adapter\.r=1000000000000\.0: .*integer"),
    "r misfits": (lambda c: c["adapter"].update(r=60_000), "has shape and dtype"),
    "stages": (lambda c: c["adapter"]["f1"].update(stages=10**9), "less than or equal to 64"),
    "slope": (lambda c: c["adapter"]["f1"].update(negative_slope=1e308), "less than or equal"),
    "adapter a list": (lambda c: c.update(adapter=[1]), r"adapter=\[1\] is not the settings"),
    "adapter unknown": (lambda c: c.update(adapter={"name": ["lora"]}), r"adapter\.name=\['lora'\] is not one of"),
    "slices a number": (lambda c: c.update(slices=5), "slices=5: input should be a valid"),
    "slices a text": (lambda c: c.update(slices="qv"), "slices='qv': input should be a valid"),
    "slices deep": (lambda c: c.update(slices=nested(150)), "slices"),
    "joint a text": (lambda c: c.update(joint="no"), "joint='no': input should be a valid boolean"),
    "files null": (lambda c: c.update(files=None), "files=None: input should be an object"),
    "files a list": (lambda c: c.update(files=[TENSOR_FILE]), "files=.*: input should be an object"),
    "files empty": (lambda c: c.update(files={}), "lists the files none"),
    "files outside": (lambda c: c["files"].update({"../../etc/passwd": "0" * 64}), "it may list"),
    "a hash a number": (lambda c: c["files"].update({TENSOR_FILE: 5}), "input should be a valid string"),
    "unknown key": (lambda c: c.update(with_frozen="no"), "with_frozen is not a setting"),
    "dense with frozen tensors": (lambda c: c.update(approx={"name": "dense"}), "it may list adapter_model"),
    "fingerprint": (lambda c: c.update(base_fingerprint=7), "input should be a valid string"),
    "samples": (lambda c: c.update(base_fingerprint="0", base_samples={"a": "[1] rand 2"}), "not the sample"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_configuration_that_cannot_be_is_refused(saved, name):
    edit, rule = EDITS[name]
    seal(saved, edit)
    refused(saved, rule)


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_nesting_is_refused(saved, depth):
    (saved / CONFIG_FILE).write_text('{"format": 2, "sha256": "", "x": ' + "[" * depth + "]" * depth + "}")
    refused(saved, CONFIG_FILE)


def with_value(value):
    def edit(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return edit


TENSORS = {
    "nan": (with_value(torch.nan), "not finite"),
    "inf": (with_value(-torch.inf), "not finite"),
    "int64": (lambda t: t.long(), "has shape and dtype"),
    "uint8": (lambda t: t.byte(), "has shape and dtype"),
    "bool": (lambda t: t.bool(), "has shape and dtype"),
    "complex64": (lambda t: t.to(torch.complex64), "has shape and dtype"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "has shape and dtype"),
    "float64": (lambda t: t.double(), "has shape and dtype"),
    "empty": (lambda t: t[:0].clone(), "has shape and dtype"),
}


@pytest.mark.parametrize("file", [TENSOR_FILE, APPROXIMATION_FILE])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_cannot_be_are_refused(saved, file, name):
    edit, rule = TENSORS[name]
    tensors = load_file(saved / file)
    key = max(tensors, key=lambda key: tensors[key].numel())
    tensors[key] = edit(tensors[key])
    save_file(tensors, saved / file)
    seal(saved)
    refused(saved, rule if file == TENSOR_FILE else f"{rule}|does not approximate")


@pytest.mark.parametrize("key", ["W_A", "bias", "energy"])
def test_frozen_tensors_that_nothing_ties_to_the_base_are_refused(saved, key):
    path = saved / APPROXIMATION_FILE
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(key))
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, path)
    seal(saved)
    refused(saved, f"{APPROXIMATION_FILE}.*(does not approximate|bias of .* is not the base's)")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place within plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def load_or_refuse(saved):
    """The base with the adapter; None if that is refused in a sentence, which leaves the base alone."""
    model = copy.deepcopy(BASE)
    try:
        return loda.from_pretrained(model, saved)
    except LodaError:
        assert not hasattr(model, "loda_adapter_state")
        return None


@given(data=st.data())
@BUDGET
def test_any_value_anywhere_in_the_configuration_gives_a_sentence_or_a_model(saved, original, data):
    """Settings of the map, such as alpha, may be other ones: then it is the adapter of that configuration."""

    def edit(content):
        *path, last = data.draw(st.sampled_from(list(places(content))))
        for key in path:
            content = content[key]
        content[last] = data.draw(JSON)

    (saved / CONFIG_FILE).write_bytes(original[1][CONFIG_FILE])
    try:
        seal(saved, edit)
    except ValueError:  # half a surrogate pair, which no file can hold
        return
    model = load_or_refuse(saved)
    assert model is None or logits(model).isfinite().all()


@given(place=st.floats(0, 1), data=st.binary(min_size=1, max_size=8), in_header=st.booleans())
@BUDGET
def test_any_bytes_in_the_file_of_tensors_give_a_sentence_or_finite_weights(saved, original, place, data, in_header):
    content = bytearray(original[1][TENSOR_FILE])
    (length,) = struct.unpack("<Q", content[:8])
    end = length + 8 if in_header else len(content)
    start = round(place * (end - 1))
    content[start : start + len(data)] = data
    (saved / TENSOR_FILE).write_bytes(content)
    (saved / CONFIG_FILE).write_bytes(original[1][CONFIG_FILE])
    seal(saved)
    model = load_or_refuse(saved)
    assert model is None or all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "X9", 5, None])
def test_a_header_of_an_unknown_dtype_is_refused(saved, original, dtype):
    content = original[1][TENSOR_FILE]
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header[max(set(header) - {"__metadata__"})]["dtype"] = dtype
    text = json.dumps(header).encode()
    (saved / TENSOR_FILE).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    seal(saved)
    refused(saved, TENSOR_FILE)
