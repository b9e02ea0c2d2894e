"""Metrics of a training: JSON lines always, Weights & Biases or TensorBoard on request, with the same keys."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import wandb

from loda.atomic import wrap_os_errors
from loda.lab.config import LoggerConfig


class Backend(Protocol):
    """Where metrics go."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object per line: {"step": ..., **values}."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        with wrap_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a" if resume else "w", encoding="utf-8")

    def log(self, step: int, values: dict[str, float]) -> None:
        with wrap_os_errors(self.path):
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()

    def close(self) -> None:
        self.file.close()


class WandB:
    """A Weights & Biases run; `mode: offline` needs no account."""

    def __init__(self, config: LoggerConfig, name: str, folder: Path, settings: dict[str, Any]) -> None:
        place: dict[str, Any] = {"project": config.project, "name": name, "dir": str(folder), "mode": config.mode}
        self.run = wandb.init(**place, config=settings, reinit="finish_previous")

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


class TensorBoard:
    """Event files for `tensorboard --logdir outputs/runs`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # needs an optional package

        self.writer = SummaryWriter(str(folder))

    def log(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class MetricsLogger:
    """All backends of a run, as a context manager."""

    def __init__(self, *backends: Backend) -> None:
        self.backends = backends
        self._stack = ExitStack()

    @classmethod
    def open(cls, path: Path, config: LoggerConfig, name: str, settings: dict[str, Any], resume: bool) -> Self:
        """The backends that `config` asks for; `resume` appends to the lines that are there."""
        backends: list[Backend] = [JsonLines(path, resume)]
        if config.name == "wandb":
            backends.append(WandB(config, name, path.parent, settings))
        if config.name == "tensorboard":
            backends.append(TensorBoard(path.parent / "tensorboard"))
        return cls(*backends)

    def log(self, step: int, **values: float) -> None:
        for backend in self.backends:
            backend.log(step, values)

    def __enter__(self) -> Self:
        for backend in self.backends:
            self._stack.callback(backend.close)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
