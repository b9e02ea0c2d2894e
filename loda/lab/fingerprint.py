"""What makes two runs the same: canonical JSON of the settings that determine a result, hashed.

Not part of any identity: where files lie, device, number of processes, threads, activation checkpointing, logging,
how often to log, decoding batch size. What the files contain is: base weights and data enter with their content. A
change of the code that changes numbers must raise `PROTOCOL`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from loda.lab.base.files import identity as model_identity
from loda.lab.config import Experiment
from loda.lab.data import identity as data_identity

PROTOCOL = 1
"""Raised by hand whenever a change of the code changes results."""


def digest(value: object) -> str:
    """The first 12 hex digits of the sha256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def train_settings(experiment: Experiment) -> dict[str, Any]:
    """Everything that determines the trained adapters."""
    trainer = experiment.trainer
    settings = {
        "protocol": PROTOCOL,
        "model": model_identity(experiment.model),
        "data": data_identity(experiment.dataset),
        "max_length": experiment.dataset.max_length,
        "seed": experiment.seed,
        **experiment.method.to_dict(),
    }
    if experiment.trains:
        optim = asdict(experiment.optim)
        # Runs from before this setting keep their names.
        settings["optim"] = optim if optim["accumulate"] > 1 else _without(optim, "accumulate")
        settings["trainer"] = {"precision": trainer.precision, "order": trainer.order, "max_steps": trainer.max_steps}
        # Both draw dropout's noise otherwise. Runs without them keep their names.
        settings["trainer"] |= {name: True for name in ("fast", "compile") if getattr(trainer, name)}
    return settings


def train_key(experiment: Experiment) -> str:
    """Identity of the trained adapters."""
    return digest(train_settings(experiment))


def data_key(experiment: Experiment) -> str:
    """Identity of the data set's content."""
    return digest(data_identity(experiment.dataset))


def decode_key(experiment: Experiment) -> str:
    """Identity of the decoding settings; equal for all runs that are decoded alike."""
    return digest(_without(asdict(experiment.decode), "batch_size") | {"protocol": PROTOCOL})


def _without(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k != key}
