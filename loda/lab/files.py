"""Plain JSON for others to read, and lines that others are writing; all else is in `loda.atomic` and `loda.sealed`."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from loda.atomic import write_text


def write_json(path: Path, value: Any) -> None:
    """Write JSON without a seal, for others to read; dataclasses become objects, NaN is refused."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    write_text(path, json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def last_json_line(path: Path) -> Any:
    """The last whole line of a file that another process may be writing; None if there is none yet."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return json.loads(lines[-1]) if lines else None
