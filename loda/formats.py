"""Conversions between a folder of `loda.save_pretrained` and one of PEFT: the same tensors under other names.

Both formats can hold lora, loda and loda_plus, over the base as it is or over an approximation that is computed when
the adapter is loaded. The base is needed, because only it tells which modules the settings name, and because a folder
of `loda.save_pretrained` says which base is the right one.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

import loda.config
from loda.adapter_files import (
    APPROXIMATION_FILE,
    CONFIG_FILE,
    TENSOR_FILE,
    load_tensors,
    read_config,
    read_tensors,
    save_tensors,
    write_adapter,
)
from loda.adapters import LoRAConfig
from loda.approx.group import check_state, fingerprint_of_targets
from loda.atomic import write_folder
from loda.checkpoint import check_base, check_finite, fitting, identify, trial_of
from loda.errors import LodaError
from loda.model import adapter_state, check_holds_no_adapters, state_of, targets_of
from loda.projection import projections
from loda.settings import read_json

RENAMED = {"adapter", "approx", "targets"}
"""Settings of `loda.LodaConfig` that PEFT's format says otherwise; those of the same name are the same."""
NO_SETTINGS = {
    *("auto_mapping", "base_fingerprint", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version"),
    *("revision", "task_type"),
}
"""What PEFT's format says beside the settings; it changes no number."""
REMEDY = "restore the folder from a copy"


def to_peft(folder: str | Path, out: str | Path, model: nn.Module) -> None:
    """Write the adapter in `folder`, which `loda.save_pretrained` wrote, as PEFT's folder `out`.

    `import loda.peft` and `PeftModel.from_pretrained(model, out)` then give the same function, bit for bit.

    Args:
        folder: a folder of `loda.save_pretrained`.
        out: a folder that does not exist yet.
        model: the base that the adapter was trained on, without adapters; it stays unchanged.

    Raises:
        LodaError: another base, an adapter that PEFT's format cannot hold, or `out` exists.
    """
    import loda.peft

    folder, out = _checked(folder, out, model)
    config, saved = read_config(folder)
    check_base(model, folder, config, saved, any_dtype=False)
    plain = loda.config.to_plain(config.adapter) | config.to_dict()
    plain = {name: value for name, value in plain.items() if name not in {"name", "init", *RENAMED}}  # init: no number
    more = sorted(set(plain) - {field.name for field in dataclasses.fields(loda.peft.LodaConfig)})
    stored = APPROXIMATION_FILE in saved.files
    if not isinstance(config.adapter, LoRAConfig) or more or stored:
        what = APPROXIMATION_FILE if stored else ", ".join([f"adapter={config.adapter.name}", *more])
        raise LodaError(
            f"{folder} holds {what}, which PEFT's format cannot: lora, loda or loda_plus, and an approximation by its "
            "settings alone; load it with loda.from_pretrained"
        )
    theirs, trial = _names(model, config)
    tensors = fitting(read_tensors(folder, saved)[TENSOR_FILE], adapter_state(trial))
    check_state(tensors, adapter_state(trial), str(folder / TENSOR_FILE), REMEDY)
    check_finite(tensors, str(folder / TENSOR_FILE), REMEDY)
    dense = config.approx.name == "dense"
    settings = loda.peft.LodaConfig(
        variant=config.adapter.name,
        **plain,
        approx=None if dense else loda.config.to_plain(config.approx),
        base_fingerprint=None if dense else fingerprint_of_targets(targets_of(model, config)),
        target_modules=config.targets if isinstance(config.targets, str) else list(config.targets) or None,
        base_model_name_or_path=getattr(model, "name_or_path", None),
        inference_mode=True,
    )

    def fill(temporary: Path) -> None:
        save_tensors({theirs(name): tensor for name, tensor in tensors.items()}, temporary / TENSOR_FILE)
        settings.save_pretrained(str(temporary))

    write_folder(out, fill)


def from_peft(folder: str | Path, out: str | Path, model: nn.Module) -> None:
    """Write the adapter in `folder`, which PEFT wrote with `loda.peft`, as the folder `out` of `loda.save_pretrained`.

    `loda.from_pretrained(model, out)` then gives the same function, bit for bit. PEFT's folder does not say on which
    base the adapter was trained (but with an approximation), so `model` is taken for it.

    Args:
        folder: a folder with PEFT's adapter_config.json, of the type LODA.
        out: a folder that does not exist yet.
        model: the base that the adapter was trained on, without adapters; it stays unchanged.

    Raises:
        LodaError: no such folder, settings that `loda.LodaConfig` does not have, tensors that do not fit `model`, or
            `out` exists.
    """
    folder, out = _checked(folder, out, model)
    theirs, trial = _names(model, _config_of(folder, model))
    expected = {theirs(name): tensor for name, tensor in adapter_state(trial).items()}
    found = fitting(load_tensors(folder / TENSOR_FILE), expected)
    check_state(found, expected, str(folder / TENSOR_FILE), REMEDY)
    check_finite(found, str(folder / TENSOR_FILE), REMEDY)
    tensors = {name: found[theirs(name)] for name in adapter_state(trial)}
    config = state_of(trial).config  # which says what modules_to_save=None stands for
    write_adapter(out, config, {TENSOR_FILE: tensors}, *identify(model, config))


def _checked(folder: str | Path, out: str | Path, model: nn.Module) -> tuple[Path, Path]:
    check_holds_no_adapters(model)
    if Path(out).exists():
        raise LodaError(f"{out} exists already; give a folder that does not")
    return Path(folder), Path(out)


def _names(model: nn.Module, config: loda.config.LodaConfig) -> tuple[Callable[[str], str], nn.Module]:
    """Return what PEFT calls a tensor of the adapter, and `model` with the adapter on the meta device."""
    trial = trial_of(model, config)
    inside = [f"{name}." for name in projections(trial)]

    def theirs(name: str) -> str:
        for prefix in inside:
            if name.startswith(f"{prefix}adapters."):
                name = f"{prefix}loda_{name.removeprefix(prefix)}"
        return f"base_model.model.{name}"

    return theirs, trial


def _config_of(folder: Path, model: nn.Module) -> loda.config.LodaConfig:
    """Read PEFT's adapter_config.json as the settings of this library."""
    import loda.peft

    path = folder / CONFIG_FILE
    content = read_json(path)
    if not isinstance(content, dict) or content.get("peft_type") != "LODA":
        raise LodaError(f"{path} is not that of a LoDA adapter in PEFT; give a folder that PEFT saved with loda.peft")
    try:
        theirs = loda.peft.LodaConfig(**content)
        config = loda.config.LodaConfig.from_dict(_settings_of(theirs, model))
    except TypeError as error:
        raise LodaError(f"{path} holds settings that loda.peft does not have ({error}); {REMEDY}") from error
    if theirs.approx is not None and theirs.base_fingerprint != fingerprint_of_targets(targets_of(model, config)):
        raise LodaError(f"the adapter in {folder} was trained over another base; give the base it was trained on")
    return config


def _settings_of(theirs: Any, model: nn.Module) -> dict[str, Any]:
    """Return the plain data of `loda.LodaConfig` that says what PEFT's settings say."""
    plain, defaults = vars(theirs), vars(type(theirs)())
    adapter = {field.name for field in dataclasses.fields(loda.config.known("adapter")[theirs.variant])}
    common = {field.name for field in dataclasses.fields(loda.config.LodaConfig)} - RENAMED
    given = {name for name, value in plain.items() if value != defaults[name]} - NO_SETTINGS
    unsaid = sorted(given - adapter - common - {"variant", "target_modules", "approx"})
    if unsaid:
        raise LodaError(
            f"{unsaid[0]}={plain[unsaid[0]]!r} is a setting of PEFT that loda.LodaConfig cannot say; load it with PEFT"
        )
    same = {name: plain[name] for name in given & common}
    same = {name: sorted(value) if isinstance(value, set) else value for name, value in same.items()}
    # PEFT names the heads of several kinds of models, and takes those that there are; None means none.
    heads, names = theirs.modules_to_save or (), [f".{name}" for name, _ in model.named_modules()]
    same["modules_to_save"] = [head for head in heads if any(name.endswith(f".{head}") for name in names)]
    targets = theirs.target_modules or ()
    return {
        "adapter": {"name": theirs.variant} | {name: plain[name] for name in sorted(given & adapter)},
        "approx": theirs.approx or {"name": "dense"},
        "targets": targets if isinstance(targets, str) else sorted(targets),
        **same,
    }
