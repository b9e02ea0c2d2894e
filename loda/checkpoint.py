"""Save and load adapters, strictly: PEFT's two file names, safetensors and JSON, nothing pickled.

    adapter_config.json         adapter, approximation, slices, fingerprint of the base model, hashes
    adapter_model.safetensors   the trained tensors, by parameter name

An altered byte in any of them is noticed when they are loaded. Other files may lie beside them, such as a model card.

The approximation is not stored unless asked for: its recipe and the fingerprint of the base are, and loading
computes it again. `with_frozen=True` stores its tensors too, because a singular value decomposition is not
bit-stable across BLAS builds.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loda.approximation import FrozenTensors
from loda.atomic import sha256, write_file
from loda.config import LodaConfig, part_name
from loda.errors import LodaError
from loda.fingerprint import fingerprint
from loda.interfaces import Frozen
from loda.model import (
    adapter_parameters,
    adapter_state,
    attachment,
    check_holds_no_adapters,
    fold,
    inject,
    projections,
    trainable_parameters,
)
from loda.sealed import loads, write_sealed

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
FROZEN_FILE = "frozen.safetensors"
_OWN_KEYS = {"base_fingerprint", "with_frozen"}
_NEWER_KEYS = {"targets", "joint", "files"}
"""Not in all files: earlier versions wrote no `files`, the sha256 of the others; the rest is there where it is set."""
Model = TypeVar("Model", bound=nn.Module)


def save_pretrained(model: nn.Module, path: str | Path, *, with_frozen: bool = False) -> None:
    """Write the adapters of `model` into the folder `path`, in place of any that it holds.

    `adapter_config.json` is taken away first and written last: a folder that has one is complete.

    Raises:
        LodaError: the model holds no adapters, or something else in it was made trainable and would not be saved.
    """
    attached = attachment(model)
    others = sorted(set(trainable_parameters(model)) - set(adapter_parameters(model)))
    if others:
        raise LodaError(
            f"{others[0]} requires gradients but is no part of the adapter and would not be saved; "
            "freeze it, or save the whole model instead"
        )
    folder = Path(path)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    (folder / FROZEN_FILE).unlink(missing_ok=True)
    tensors = {n: p.detach().cpu().contiguous() for n, p in adapter_state(model).items()}
    write_file(folder / TENSOR_FILE, lambda temporary: save_file(tensors, temporary))
    with_frozen = with_frozen and part_name(attached.config.approx) != "dense"
    if with_frozen:
        frozen = {n: cast(Frozen, p.frozen).tensors() for n, p in projections(model).items()}
        write_file(folder / FROZEN_FILE, lambda temporary: save_frozen(frozen, temporary))
    description = {
        **attached.config.to_dict(),
        "base_fingerprint": attached.base_fingerprint,
        "with_frozen": with_frozen,
        "files": {name: sha256(folder / name) for name in _files(with_frozen)},
    }
    write_sealed(folder / CONFIG_FILE, description)


def from_pretrained(model: Model, path: str | Path, *, frozen: FrozenTensors | None = None) -> Model:
    """Inject the adapters saved in `path` into `model`, the base they were trained on, in place.

    Args:
        model: the base model, without adapters.
        path: a folder that `save_pretrained` wrote.
        frozen: as for `inject`.

    Raises:
        LodaError: adapters already there, a missing, unreadable or altered file, another base, or tensors that are
            missing, unknown or of another shape. The model is untouched then.
    """
    check_holds_no_adapters(model)
    folder = Path(path)
    description = _read_config(folder / CONFIG_FILE)
    config = LodaConfig.from_dict({k: v for k, v in description.items() if k not in {*_OWN_KEYS, "files"}})
    found = fingerprint(model)
    if found != description["base_fingerprint"]:
        raise LodaError(
            f"the adapter in {folder} was trained on another base model "
            f"(fingerprint {description['base_fingerprint'][:12]}, this one has {found[:12]}); "
            "load the base it was trained on, in the same dtype"
        )
    reads_frozen = frozen is None and description["with_frozen"]
    _check_files(folder, description, _files(reads_frozen))
    tensors = _read_tensors(folder / TENSOR_FILE)
    if reads_frozen:
        frozen = load_frozen(folder / FROZEN_FILE)
    _check_tensors(tensors, adapter_state(inject(_skeleton(model), config)), folder / TENSOR_FILE)
    fold(inject(model, config, frozen))
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            parameter.copy_(tensors[name])
    return model


def check_saved(path: str | Path) -> bool:
    """Check the files of an adapter's folder without loading them; whether they carry hashes to be checked by.

    Raises:
        LodaError: a missing, unreadable or altered file.
    """
    description = _read_config(Path(path) / CONFIG_FILE)
    _check_files(Path(path), description, _files(description["with_frozen"]))
    return "files" in description


def save_frozen(frozen: FrozenTensors, path: Path) -> None:
    """Store the tensors of an approximation in one file."""
    # Copies, because parts of one approximation may share memory, which the format has not.
    flat = {f"{m}/{k}": t.cpu().clone().contiguous() for m, part in frozen.items() for k, t in part.items()}
    save_file(flat, path)


def load_frozen(path: Path) -> FrozenTensors:
    """Read what `save_frozen` wrote.

    Raises:
        LodaError: a missing or unreadable file.
    """
    frozen: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _read_tensors(path).items():
        module, _, part = key.rpartition("/")
        frozen.setdefault(module, {})[part] = tensor
    return frozen


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise LodaError(f"{path} is missing; give the folder that loda.save_pretrained wrote")
    try:
        description = loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LodaError(f"{path} is not readable ({error}); restore it from a copy") from error
    expected = {"adapter", "approx", "slices", *_OWN_KEYS}
    if not isinstance(description, dict) or not expected <= set(description) <= expected | _NEWER_KEYS:
        raise LodaError(
            f"{path} is not a LoDA adapter configuration: it must have the keys {sorted(expected)}, "
            f"may have {sorted(_NEWER_KEYS)}, and no other"
        )
    return description


def _files(with_frozen: bool) -> list[str]:
    return [TENSOR_FILE, FROZEN_FILE] if with_frozen else [TENSOR_FILE]


def _check_files(folder: Path, description: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check files against the hashes of the configuration, where it has them."""
    for name in names:
        path = folder / name
        if not path.is_file():
            raise LodaError(f"{path} is missing; give the folder that loda.save_pretrained wrote")
        if "files" in description and sha256(path) != description["files"].get(name):
            raise LodaError(f"{path} is not what was saved, its sha256 is another; restore it from a copy")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise LodaError(f"{path} is missing; give the folder that loda.save_pretrained wrote")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise LodaError(f"{path} is not a readable safetensors file ({error})") from error


def _skeleton(model: Model) -> Model:
    """The same modules without weights: a copy of `model` whose parameters are on the meta device."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)


def _check_tensors(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], path: Path) -> None:
    missing = sorted(set(parameters) - set(tensors))
    unknown = sorted(set(tensors) - set(parameters))
    if missing:
        raise LodaError(f"{path} lacks the tensor {missing[0]} ({len(missing)} missing)")
    if unknown:
        raise LodaError(f"{path} holds an unknown tensor {unknown[0]} ({len(unknown)} unknown)")
    for name, parameter in parameters.items():
        found, expected = ((tuple(t.shape), t.dtype) for t in (tensors[name], parameter))
        if found != expected:
            raise LodaError(f"{path}: {name} has shape and dtype {found}, expected {expected}")
