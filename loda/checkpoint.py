"""Save and load adapters, strictly: PEFT's two file names, safetensors and JSON, nothing pickled.

    adapter_config.json         adapter, approximation, slices, fingerprint of the base model
    adapter_model.safetensors   the trained tensors, by parameter name

The approximation is not stored unless asked for: its recipe and the fingerprint of the base are, and loading
computes it again. `with_frozen=True` stores its tensors too, because a singular value decomposition is not
bit-stable across BLAS builds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loda.config import LodaConfig, part_name
from loda.errors import LodaError
from loda.fingerprint import fingerprint
from loda.inject import FrozenTensors, attachment, inject, projections, trainable_parameters
from loda.protocols import Frozen

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
FROZEN_FILE = "frozen.safetensors"
Model = TypeVar("Model", bound=nn.Module)


def save_pretrained(model: nn.Module, path: str | Path, *, with_frozen: bool = False) -> None:
    """Write the adapters of `model` into the folder `path`.

    Raises:
        LodaError: the model holds no adapters.
    """
    attached = attachment(model)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: p.detach().cpu().contiguous() for n, p in trainable_parameters(model).items()}
    save_file(tensors, folder / TENSOR_FILE)
    with_frozen = with_frozen and part_name(attached.config.approx) != "dense"
    description = {
        **attached.config.to_dict(),
        "base_fingerprint": attached.base_fingerprint,
        "with_frozen": with_frozen,
    }
    if with_frozen:
        frozen = {n: cast(Frozen, p.frozen).tensors() for n, p in projections(model).items()}
        save_frozen(frozen, folder / FROZEN_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def from_pretrained(model: Model, path: str | Path, *, frozen: FrozenTensors | None = None) -> Model:
    """Inject the adapters saved in `path` into `model`, the base they were trained on, in place.

    Args:
        model: the base model, without adapters.
        path: a folder that `save_pretrained` wrote.
        frozen: as for `inject`.

    Raises:
        LodaError: a missing or unreadable file, another base, or tensors that are missing, unknown or of another
            shape. Files and base are checked before the model is touched.
    """
    folder = Path(path)
    description = _read_config(folder / CONFIG_FILE)
    config = LodaConfig.from_dict({k: description[k] for k in ("adapter", "approx", "slices")})
    found = fingerprint(model)
    if found != description["base_fingerprint"]:
        raise LodaError(
            f"the adapter in {folder} was trained on another base model "
            f"(fingerprint {description['base_fingerprint'][:12]}, this one has {found[:12]}); "
            "load the base it was trained on, in the same dtype"
        )
    tensors = _read_tensors(folder / TENSOR_FILE)
    if frozen is None and description["with_frozen"]:
        frozen = load_frozen(folder / FROZEN_FILE)
    inject(model, config, frozen)
    _assign(trainable_parameters(model), tensors, folder / TENSOR_FILE)
    return model


def save_frozen(frozen: FrozenTensors, path: Path) -> None:
    """Store the tensors of an approximation in one file."""
    flat = {f"{m}/{k}": t.cpu().contiguous() for m, part in frozen.items() for k, t in part.items()}
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
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LodaError(f"{path} is not valid JSON ({error}); save the adapter again") from error
    expected = {"adapter", "approx", "slices", "base_fingerprint", "with_frozen"}
    if not isinstance(description, dict) or set(description) != expected:
        raise LodaError(f"{path} is not a LoDA adapter configuration: it must have exactly the keys {sorted(expected)}")
    return description


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise LodaError(f"{path} is missing; give the folder that loda.save_pretrained wrote")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise LodaError(f"{path} is not a readable safetensors file ({error})") from error


@torch.no_grad()
def _assign(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], path: Path) -> None:
    missing, unknown = (
        sorted(set(parameters) - set(tensors)),
        sorted(set(tensors) - set(parameters)),
    )
    if missing:
        raise LodaError(f"{path} lacks the tensor {missing[0]} ({len(missing)} missing)")
    if unknown:
        raise LodaError(f"{path} holds an unknown tensor {unknown[0]} ({len(unknown)} unknown)")
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise LodaError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(parameter.shape)}")
        parameter.copy_(tensors[name])
