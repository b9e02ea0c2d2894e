"""The one place that lets transformers load something, from folders on this machine.

A model's folder may name Python files of its own (`auto_map`). Without `trust_remote_code=False` transformers asks at
the terminal whether to run them; here they never run, whatever is typed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from loda.errors import LodaError

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
LOCAL: dict[str, Any] = {"local_files_only": True, **NO_CODE}


def load_config(folder: Path) -> PretrainedConfig:
    """The configuration in `folder`."""
    with _explained(folder):
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, **LOCAL)
    return config


def load_model(folder: Path, **settings: Any) -> Any:
    """The model in `folder`, with these settings of transformers.

    Raises:
        LodaError: a PEFT adapter lies there too, which transformers would put into the model.
    """
    if (folder / "adapter_config.json").is_file():
        raise LodaError(f"{folder} holds an adapter_config.json, so it is not a base alone; move the adapter elsewhere")
    with _explained(folder):
        return AutoModelForCausalLM.from_pretrained(folder, **settings, **LOCAL)


def make_model(config: PretrainedConfig) -> Any:
    """A new model of this configuration."""
    return AutoModelForCausalLM.from_config(config, **NO_CODE)


def load_tokenizer(folder: Path, **settings: Any) -> Any:
    """The tokenizer in `folder`, with these settings of transformers."""
    with _explained(folder):
        return AutoTokenizer.from_pretrained(folder, **settings, **LOCAL)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Replace transformers' advice to trust the code."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise LodaError(
            f"{folder} needs Python code of its own (auto_map), which is never run; give a base that transformers knows"
        ) from error
