"""Save the adapters of a model and load them, strictly: the right base, every tensor, or an error.

Without a stored approximation, loading computes it again, and other BLAS builds may round it differently.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from loda.adapter_files import APPROXIMATION_FILE, TENSOR_FILE, SavedAdapter, read_config, read_tensors, write_adapter
from loda.approx.group import base_projections, check_belongs, check_state, state_dict
from loda.config import LodaConfig
from loda.errors import LodaError
from loda.identity import (
    Sample,
    dtypes,
    fingerprint_of,
    is_same_model,
    name_of,
    owners,
    read_sample,
    sample,
    whole,
)
from loda.model import (
    Model,
    adapter_parameters,
    adapter_state,
    base_parameters,
    check_holds_no_adapters,
    fold,
    inject,
    state_of,
    targets_of,
    trainable_parameters,
)
from loda.projection import projections
from loda.wrappers import before_wrapping, on_inner_model

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@on_inner_model
def save_pretrained(
    model: nn.Module,
    path: str | Path,
    *,
    with_approximation: bool = False,
    base_fingerprint: str | None = None,
    is_main_process: bool = True,
) -> None:
    """Write the adapters of `model` into the folder `path`, in place of any that the folder holds.

    All files are complete on the disk before the first one replaces an old file. The configuration comes last. Other
    files in the folder, such as a model card, stay.

    Args:
        model: a model with adapters.
        path: the folder, which need not exist.
        with_approximation: whether to store the approximated weights too.
        base_fingerprint: `fingerprint(model)`, if it is known; computing it reads all weights of the base.
        is_main_process: whether this process writes. Over several processes one writes; where weights are distributed
            (FSDP2) the others must call this function too, to give their shares.

    Raises:
        LodaError: no adapters, a part of the model that would not be saved (see `check_savable`), numbers that are not
            finite, or a file that cannot be written. An older adapter in the folder stays.
    """
    config = state_of(model).config
    check_savable(model, with_approximation)
    parameters: dict[str, Mapping[str, Tensor]] = {TENSOR_FILE: adapter_state(model)}
    if with_approximation and config.approx.name != "dense":
        bases = {name: projection.base for name, projection in projections(model).items()}
        parameters[APPROXIMATION_FILE] = state_dict(bases)
    tensors = {file: {n: whole(tensor.detach()) for n, tensor in named.items()} for file, named in parameters.items()}
    for named in tensors.values():
        check_finite(named, "the adapter", "train again with a smaller learning rate")
    identity = identify(model, config, base_fingerprint)
    if is_main_process:
        write_adapter(Path(path), config, tensors, *identity)


@before_wrapping
def from_pretrained(
    model: Model,
    path: str | Path,
    *,
    any_dtype: bool = False,
    approximation: Mapping[str, Tensor] | None = None,
    base_fingerprint: str | None = None,
    autocast_adapter_dtype: bool = True,
) -> Model:
    """Inject the adapters saved in `path` into `model`, the base they were trained on, in place.

    Args:
        model: the base model, without adapters.
        path: a folder that `save_pretrained` wrote.
        any_dtype: whether the base may be in another dtype, or quantised, or no longer quantised. Then samples of its
            weights identify it (`loda.identity`), tensors are cast to the dtype that they have in `model`, and an
            approximation that is not stored is computed from the weights of `model`.
        approximation: as for `loda.inject`; it takes precedence over a stored one.
        base_fingerprint: `fingerprint(model)`, if it is known; computing it reads all weights of the base.
        autocast_adapter_dtype: as for `loda.inject`.

    Raises:
        LodaError: adapters already there, a missing or altered file, another base, or tensors that do not fit or are
            not finite. The model is unchanged.
    """
    check_holds_no_adapters(model)
    folder = Path(path)
    config, saved = read_config(folder)
    check_base(model, folder, config, saved, any_dtype, base_fingerprint)
    trial = trial_of(model, config, autocast_adapter_dtype)
    stored = read_tensors(folder, saved, *([APPROXIMATION_FILE] if approximation is not None else []))
    expected = adapter_state(trial)
    tensors = fitting(stored[TENSOR_FILE], expected, any_dtype or not autocast_adapter_dtype)
    remedy = "restore the folder from a copy"
    check_state(tensors, expected, str(folder / TENSOR_FILE), remedy)
    check_finite(tensors, str(folder / TENSOR_FILE), remedy)
    if APPROXIMATION_FILE in stored:
        wanted = state_dict({name: projection.base for name, projection in projections(trial).items()})
        approximation = fitting(stored[APPROXIMATION_FILE], wanted, any_dtype)
        targets = targets_of(model, config)
        bases = base_projections(targets, config.approx, config.joint, approximation)
        check_belongs(targets, bases, config.approx, config.joint, str(folder / APPROXIMATION_FILE))
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
    return fingerprint_of(_distinct_parameters(model, but))


def identify(
    model: nn.Module, config: LodaConfig, base_fingerprint: str | None = None
) -> tuple[str, dict[str, Sample]]:
    """Return fingerprint and samples of the base, without the modules that the adapter of `config` holds whole."""
    own = config.modules_to_save or ()
    return base_fingerprint or fingerprint(model, own), base_samples(model, own)


def base_samples(model: nn.Module, but: Sequence[str] = ()) -> dict[str, Sample]:
    """Return the sample of every parameter of the base, by name; tied ones once, those of the modules `but` not."""
    modules = {id(parameter): module for parameter, module in owners(model)}
    return {name: sample(p, modules.get(id(p))) for name, p in _distinct_parameters(model, but).items()}


def check_savable(model: nn.Module, with_approximation: bool) -> None:
    """Raise LodaError if a saved adapter on a fresh base would be another model than `model`.

    The parameters must be those that `inject` left, of the same names and shapes; the frozen ones must have the values
    that they had, or those after one cast.
    """
    state, found = state_of(model), dict(model.named_parameters())
    for name in sorted(set(trainable_parameters(model)) - state.trained):
        raise LodaError(
            f"{name} requires gradients but is no part of the adapter and would not be saved; "
            "freeze it, or save the whole model instead"
        )
    now = {name: sample(parameter) for name, parameter in found.items() if name not in state.trained}
    for name in sorted((state.trained - set(found)) | (set(state.frozen) ^ set(now))):
        raise LodaError(
            f"{name} is {'new' if name in found else 'gone'} since loda.inject, so a saved adapter would not give this "
            "model again; undo that (a parametrisation, a replaced module) before saving"
        )
    resized = [name for name in state.trained & set(state.base) if found[name].shape != state.base[name].shape]
    for name in resized + [name for name, then in state.frozen.items() if not then.casts_to(now[name])]:
        raise LodaError(
            f"{name} has changed since loda.inject, which a saved adapter would not hold; resize and change the base "
            "before loda.inject, or save before casting it twice"
        )
    for name, then in state.frozen.items():
        if then.dtype != now[name].dtype and state.config.approx.name != "dense" and not with_approximation:
            raise LodaError(
                f"the base was approximated in {name_of(then.dtype)} and is in {name_of(now[name].dtype)} now, where "
                "its approximation would be another; save with_approximation=True"
            )


def check_base(
    model: nn.Module,
    folder: Path,
    config: LodaConfig,
    saved: SavedAdapter,
    any_dtype: bool,
    base_fingerprint: str | None = None,
) -> None:
    """Raise LodaError unless `model` is the base that the adapter in `folder` was trained on."""
    own = config.modules_to_save or ()
    found = base_fingerprint or fingerprint(model, own)
    if found == saved.base_fingerprint:
        return
    theirs = {name: read_sample(text) for name, text in saved.base_samples.items()}
    ours = base_samples(model, own)
    if not is_same_model(theirs, ours):
        raise LodaError(
            f"the adapter in {folder} was trained on another base model (fingerprint {saved.base_fingerprint[:12]}, "
            f"this one has {found[:12]}); load the base it was trained on"
        )
    if not any_dtype:
        raise LodaError(
            f"the adapter in {folder} was trained on this model in {dtypes(theirs)}, and the model is in "
            f"{dtypes(ours)}; load the base in the same dtype, or give any_dtype=True"
        )


def trial_of(model: Model, config: LodaConfig, autocast_adapter_dtype: bool = True) -> Model:
    """Return a copy of `model` on the meta device with the adapter: what may be refused is tried without weights."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    with torch.device("meta"):
        return inject(copy.deepcopy(model, empty), config, autocast_adapter_dtype=autocast_adapter_dtype)


def check_finite(tensors: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Raise LodaError, about `what`, if a number in `tensors` is infinite or not a number."""
    for name, tensor in tensors.items():
        if not tensor.is_meta and not tensor.isfinite().all():
            raise LodaError(f"{what}: {name} holds numbers that are not finite; {remedy}")


def fitting(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], any_dtype: bool = False) -> dict[str, Tensor]:
    """Cast what is found to the dtypes that are wanted: floating numbers to wider ones, or if `any_dtype` to any."""

    def fit(name: str, tensor: Tensor) -> Tensor:
        dtype = wanted[name].dtype if name in wanted else tensor.dtype
        both = tensor.dtype in FLOATS and dtype in FLOATS
        return tensor.to(dtype) if both and (any_dtype or torch.promote_types(tensor.dtype, dtype) == dtype) else tensor

    return {name: fit(name, tensor) for name, tensor in found.items()}


def _distinct_parameters(model: nn.Module, but: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters of the base by name, tied ones under the first of their names, without the modules `but`."""
    within = tuple(f"{name}." for name in but)
    parameters = {name: p for name, p in base_parameters(model).items() if not name.startswith(within)}
    first = {id(parameter): name for name, parameter in reversed(parameters.items())}
    return {name: parameter for name, parameter in parameters.items() if first[id(parameter)] == name}
