"""Metrics of a training: JSON lines always, Weights & Biases or TensorBoard on request, with the same keys."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

from accelerate.tracking import TensorBoardTracker, WandBTracker
from pydantic import TypeAdapter

from loda.atomic import flush, make_folder, wrap_os_errors
from loda.errors import LodaError
from loda.lab.config import LoggerConfig
from loda.settings import read_bytes

_LINE = TypeAdapter(dict[str, int | float])


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl, to which another process may be adding.

    Raises:
        LodaError: a line is damaged.
    """
    try:
        lines = read_bytes(path).splitlines(keepends=True) if path.exists() else []
        found = [_LINE.validate_python(json.loads(line)) for line in lines if line.endswith(b"\n")]
        if not all({"step", "loss"} <= line.keys() for line in found):
            raise ValueError("a line lacks step or loss")
        return found
    except (ValueError, RecursionError) as error:
        raise LodaError(f"{path} is damaged ({error}); delete it, it holds nothing but losses") from error


class Backend(Protocol):
    """Where metrics go; accelerate's trackers are backends."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


class JsonLines:
    """One JSON object per line: {"step": ..., **values}."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        with wrap_os_errors(path):
            make_folder(path.parent)
            path.open("a" if resume else "w").close()
            flush(path.parent)

    def log(self, values: dict[str, float], step: int) -> None:
        # Opened anew, because a file that was deleted would take lines that nobody finds.
        with wrap_os_errors(self.path), self.path.open("r+", encoding="utf-8") as file:
            file.seek(0, os.SEEK_END)
            file.write(json.dumps({"step": step, **values}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        pass


class MetricsLogger:
    """All backends of a run, as a context manager."""

    def __init__(self, *backends: Backend) -> None:
        self.backends = backends
        self._stack = ExitStack()

    @classmethod
    def open(cls, path: Path, config: LoggerConfig, name: str, settings: dict[str, Any], resume: bool) -> Self:
        """The backends that `config` asks for; `resume` appends to the lines that are there."""
        backends: list[Backend] = [JsonLines(path, resume)]
        tracker: Any = None
        if config.name == "wandb":
            options = {"dir": str(path.parent), "mode": config.mode, "config": settings, "reinit": "finish_previous"}
            tracker = WandBTracker(config.project, name=name, **options)
        if config.name == "tensorboard":
            tracker = TensorBoardTracker("tensorboard", path.parent)
        if tracker is not None:
            tracker.start()
            backends.append(tracker)
        return cls(*backends)

    def log(self, step: int, **values: float) -> None:
        for backend in self.backends:
            backend.log(values, step=step)

    def __enter__(self) -> Self:
        for backend in self.backends:
            self._stack.callback(backend.finish)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
