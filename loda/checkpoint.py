"""Save and load adapters, strictly: PEFT's two file names, safetensors and JSON, nothing pickled.

    adapter_config.json         adapter, approximation, slices, fingerprint of the base model, hashes of the files
    adapter_model.safetensors   the trained tensors, by parameter name
    approximation.safetensors   the approximated weights; only if asked for

Without the last file, loading computes the approximation again, and other BLAS builds may round it differently.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loda.approx.group import check_state, state_dict
from loda.atomic import discard_folder, flush, wrap_os_errors, write_folder
from loda.config import LodaConfig
from loda.errors import LodaError
from loda.manifest import check_files, hash_files, read_manifest, write_manifest
from loda.model import (
    Model,
    adapter_parameters,
    adapter_state,
    base_parameters,
    check_holds_no_adapters,
    fold,
    inject,
    projections,
    state_of,
    trainable_parameters,
)
from loda.wrappers import before_wrapping, on_inner_model

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
APPROXIMATION_FILE = "approximation.safetensors"
_STAGING = ".adapter.new"


@on_inner_model
def save_pretrained(
    model: nn.Module, path: str | Path, *, with_approximation: bool = False, base_fingerprint: str | None = None
) -> None:
    """Write the adapters of `model` into the folder `path`, in place of any that the folder holds.

    All files are complete on the disk before the first one replaces an old file. The configuration comes last. Other
    files in the folder, such as a model card, stay.

    Args:
        model: a model with adapters.
        path: the folder, which need not exist.
        with_approximation: whether to store the approximated weights too.
        base_fingerprint: `fingerprint(model)`, if it is known; computing it reads all weights of the base.

    Raises:
        LodaError: no adapters, a trainable parameter that is not the adapter's and would not be saved, or a file that
            cannot be written.
    """
    config = state_of(model).config
    others = sorted(set(trainable_parameters(model)) - set(adapter_parameters(model)))
    if others:
        raise LodaError(
            f"{others[0]} requires gradients but is no part of the adapter and would not be saved; "
            "freeze it, or save the whole model instead"
        )
    tensors: dict[str, Mapping[str, Tensor]] = {TENSOR_FILE: adapter_state(model)}
    if with_approximation and config.approx.name != "dense":
        bases = {name: projection.base for name, projection in projections(model).items()}
        tensors[APPROXIMATION_FILE] = state_dict(bases)
    base = base_fingerprint or fingerprint(model, config.modules_to_save or ())
    content = {**config.to_dict(), "base_fingerprint": base}
    _write(Path(path), tensors, content)


@before_wrapping
def from_pretrained(
    model: Model,
    path: str | Path,
    *,
    approximation: Mapping[str, Tensor] | None = None,
    base_fingerprint: str | None = None,
    autocast_adapter_dtype: bool = True,
) -> Model:
    """Inject the adapters saved in `path` into `model`, the base they were trained on, in place.

    Args:
        model: the base model, without adapters.
        path: a folder that `save_pretrained` wrote.
        approximation: as for `loda.inject`; it takes precedence over a stored one.
        base_fingerprint: `fingerprint(model)`, if it is known; computing it reads all weights of the base.
        autocast_adapter_dtype: as for `loda.inject`.

    Raises:
        LodaError: adapters already there, a missing or altered file, another base, or tensors that do not fit. The
            model is unchanged.
    """
    check_holds_no_adapters(model)
    folder = Path(path)
    config, trained_on, files = _read_config(folder)
    found = base_fingerprint or fingerprint(model, config.modules_to_save or ())
    if found != trained_on:
        raise LodaError(
            f"the adapter in {folder} was trained on another base model (fingerprint {trained_on[:12]}, this one has "
            f"{found[:12]}); load the base it was trained on, in the same dtype"
        )
    if approximation is not None:
        files.pop(APPROXIMATION_FILE, None)
    check_files(folder, files)
    tensors = load_tensors(folder / TENSOR_FILE)
    if APPROXIMATION_FILE in files:
        approximation = load_tensors(folder / APPROXIMATION_FILE)
    trial = inject(_without_weights(model), config, autocast_adapter_dtype=autocast_adapter_dtype)
    expected = adapter_state(trial)
    check_state(tensors, expected, str(folder / TENSOR_FILE), "restore the folder from a copy")
    fold(inject(model, config, approximation, autocast_adapter_dtype=autocast_adapter_dtype))
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            parameter.copy_(tensors[name])
    return model


@on_inner_model
def fingerprint(model: nn.Module, but: Sequence[str] = ()) -> str:
    """Return the sha256 over name, shape, dtype and bytes of every parameter of the base; tied ones count once.

    The parameters of the modules `but` do not count: `modules_to_save` are saved whole, and a head that is random
    differs each time that the base is loaded.

    The result is the same before `loda.inject`, after it and after `loda.unload`. On the meta device there are no
    bytes, and names, shapes and dtypes are hashed.
    """
    within = tuple(f"{name}." for name in but)
    parameters = {name: p for name, p in base_parameters(model).items() if not name.startswith(within)}
    first = {id(parameter): name for name, parameter in reversed(parameters.items())}
    return fingerprint_of({name: parameters[name] for name in first.values()})


@torch.no_grad()
def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over name, shape, dtype and bytes of `tensors`, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if not tensor.is_meta:
            data = tensor.detach().cpu().contiguous().flatten()
            digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file, not atomically."""
    # Clones, because modules of a joint approximation share memory, which the format cannot express.
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; LodaError if it is missing or unreadable."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise LodaError(f"{path} is not a readable safetensors file ({error}); restore it from a copy") from error


def _write(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], content: Mapping[str, Any]) -> None:
    """Write the files of `tensors` and the configuration to a folder aside, then move them into `folder`."""

    def fill(temporary: Path) -> None:
        for name, named in tensors.items():
            save_tensors(named, temporary / name)
        write_manifest(temporary / CONFIG_FILE, {**content, "files": hash_files(temporary)})

    staging = folder / _STAGING
    discard_folder(staging)
    write_folder(staging, fill)
    with wrap_os_errors(folder):
        for name in (*tensors, CONFIG_FILE):
            (staging / name).replace(folder / name)
        for name in {TENSOR_FILE, APPROXIMATION_FILE} - set(tensors):
            (folder / name).unlink(missing_ok=True)
        staging.rmdir()
        flush(folder)


def _read_config(folder: Path) -> tuple[LodaConfig, str, dict[str, str]]:
    """Return the configuration of the adapter, the fingerprint of its base, and the hashes of its files."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise LodaError(f"{path} is missing; give the folder that loda.save_pretrained wrote")
    content = read_manifest(path)
    if not {"base_fingerprint", "files"} <= set(content) or TENSOR_FILE not in content["files"]:
        raise LodaError(f"{path} is not the configuration of a LoDA adapter; give a folder of loda.save_pretrained")
    trained_on, files = content.pop("base_fingerprint"), content.pop("files")
    return LodaConfig.from_dict(content), trained_on, files


def _without_weights(model: Model) -> Model:
    """Copy `model` to the meta device, to try there what may be refused; a refusal leaves the model unchanged."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)
