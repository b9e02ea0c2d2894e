"""Where a number comes from: recorded with every result, never part of its identity."""

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "nltk", "sacrebleu")


def provenance(seconds: float) -> dict[str, Any]:
    """Commit, versions, hardware, date and duration."""
    cuda = torch.cuda.is_available()
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
    }


def _git(*arguments: str) -> str | None:
    """What git says of this checkout, None outside one."""
    folder = Path(__file__).resolve().parents[2]
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
