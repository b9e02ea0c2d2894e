"""The files of a saved adapter: PEFT's two file names, safetensors and JSON, nothing pickled.

    adapter_config.json         adapter, approximation, slices, what identifies the base, hashes of the files
    adapter_model.safetensors   the trained tensors, by parameter name
    approximation.safetensors   the approximated weights; only if asked for

A new adapter is complete in the folder `.adapter.new` before its files replace the old ones, the configuration last. So
while the configuration is in `.adapter.new`, every file of that adapter is there or in its place already.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from loda.atomic import discard_folder, flush, wrap_os_errors, write_folder
from loda.config import LodaConfig
from loda.errors import LodaError
from loda.identity import Sample
from loda.manifest import check_files, hash_files, read_manifest, write_manifest
from loda.settings import load, read_json, settings

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
APPROXIMATION_FILE = "approximation.safetensors"
NOTICE = "a folder of loda.save_pretrained: load it with loda.from_pretrained, or convert it with loda.to_peft"
_STAGING = ".adapter.new"


@settings
class SavedAdapter:
    """What adapter_config.json holds beside the settings of the adapter.

    Attributes:
        base_fingerprint: `fingerprint` of the base.
        files: the sha256 of the files of tensors, by name.
        base_samples: samples of the base's parameters (`loda.identity`), by name.
        peft_type, base_model_name_or_path: what PEFT and transformers look for and then name in their errors.
    """

    base_fingerprint: str
    files: dict[str, str]
    base_samples: dict[str, str] = dataclasses.field(default_factory=dict)
    peft_type: str = NOTICE
    base_model_name_or_path: str = NOTICE


def write_adapter(
    folder: Path,
    config: LodaConfig,
    tensors: Mapping[str, Mapping[str, Tensor]],
    base_fingerprint: str,
    samples: Mapping[str, Sample],
) -> None:
    """Write the files of `tensors` and the configuration to a folder aside, then move them into `folder`."""

    def fill(temporary: Path) -> None:
        for name, named in tensors.items():
            save_tensors(named, temporary / name)
        texts = {name: str(one) for name, one in samples.items()}
        saved = SavedAdapter(base_fingerprint, hash_files(temporary), texts)
        write_manifest(temporary / CONFIG_FILE, config.to_dict() | dataclasses.asdict(saved))

    _finish(folder)
    write_folder(folder / _STAGING, fill)
    _finish(folder)


def read_config(folder: Path) -> tuple[LodaConfig, SavedAdapter]:
    """Return the configuration of the adapter in `folder`, and what is said of its base and files.

    Raises:
        LodaError: no such file, a file of PEFT, or one that was altered or says what cannot be.
    """
    path = _place(folder, CONFIG_FILE)
    if not path.is_file():
        raise LodaError(f"{path} is missing; give the folder that loda.save_pretrained wrote")
    content = read_json(path)
    if isinstance(content, dict) and "peft_type" in content and "sha256" not in content:
        raise LodaError(
            f"{folder} is a folder of PEFT (peft_type={content['peft_type']!r}); import loda.peft and load it with "
            "PeftModel.from_pretrained, or convert it with loda.from_peft"
        )
    content = read_manifest(path)
    if not {"base_fingerprint", "files"} <= set(content):
        raise LodaError(f"{path} is not the configuration of a LoDA adapter; give a folder of loda.save_pretrained")
    own = {field.name: content.pop(field.name) for field in dataclasses.fields(SavedAdapter) if field.name in content}
    # `inject` names what modules_to_save=None stands for, and folders from before that setting hold no such modules.
    config, saved = LodaConfig.from_dict({"modules_to_save": [], **content}), load(SavedAdapter, own, str(path))
    allowed = {TENSOR_FILE} if config.approx.name == "dense" else {TENSOR_FILE, APPROXIMATION_FILE}
    if TENSOR_FILE not in saved.files or set(saved.files) - allowed:
        raise LodaError(f"{path} lists the files {', '.join(saved.files) or 'none'}; it may list {', '.join(allowed)}")
    return config, saved


def read_tensors(folder: Path, saved: SavedAdapter, *but: str) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of the files that `saved` lists, by file, without the files named `but`."""
    found = {}
    for name, sha256 in saved.files.items():
        if name not in but:
            path = _place(folder, name)
            check_files(path.parent, {name: sha256})
            found[name] = load_tensors(path)
    return found


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


def _place(folder: Path, name: str) -> Path:
    """Where a file of the newest complete adapter is: in the folder aside, if the replacement was interrupted."""
    aside = folder / _STAGING
    return aside / name if (aside / CONFIG_FILE).is_file() and (aside / name).is_file() else folder / name


def _finish(folder: Path) -> None:
    """Move a complete adapter from the folder aside into `folder`; what else lies aside is deleted."""
    aside = folder / _STAGING
    if (aside / CONFIG_FILE).is_file():
        with wrap_os_errors(folder):
            for name in (TENSOR_FILE, APPROXIMATION_FILE, CONFIG_FILE):
                if (aside / name).is_file():
                    (aside / name).replace(folder / name)
            flush(folder)
            for name in {APPROXIMATION_FILE} - set(read_manifest(folder / CONFIG_FILE)["files"]):
                (folder / name).unlink(missing_ok=True)
    discard_folder(aside)
