"""The journal of a training run: JSON lines always, Weights & Biases or TensorBoard on request, with the same keys."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from loda.atomic import unwritable
from loda.lab.config import LoggerConfig


class Sink(Protocol):
    """Somewhere that numbers go."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at update `step`."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class JsonLines:
    """One JSON object per line: {"step": ..., **values}; after those that are there, where the training goes on."""

    def __init__(self, path: Path, goes_on: bool) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a" if goes_on else "w", encoding="utf-8")
        except OSError as error:
            raise unwritable(path, error) from error

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append a line and hand it to the operating system.

        Raises:
            LodaError: it cannot be written.
        """
        try:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
        except OSError as error:
            raise unwritable(Path(self.file.name), error) from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class WandB:
    """A Weights & Biases run with the same keys; `mode: offline` needs no account."""

    def __init__(self, config: LoggerConfig, name: str, folder: Path, settings: dict[str, Any]) -> None:
        import wandb  # half a second of import that most runs do not need

        place: dict[str, Any] = {"project": config.project, "name": name, "dir": str(folder), "mode": config.mode}
        self.run = wandb.init(**place, config=settings, reinit="finish_previous")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at update `step`."""
        self.run.log(values, step=step)

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


class TensorBoard:
    """TensorBoard event files with the same keys, to be seen with `tensorboard --logdir outputs/runs`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # of an optional package

        self.writer = SummaryWriter(str(folder))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at update `step`."""
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self.writer.close()


class Journal:
    """All sinks of a run, as a context manager."""

    def __init__(self, sinks: list[Sink]) -> None:
        self.sinks = sinks

    def log(self, step: int, **values: float) -> None:
        """Record `values` at update `step` everywhere."""
        for sink in self.sinks:
            sink.log(step, values)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in self.sinks:
            sink.close()


def open_journal(
    path: Path, config: LoggerConfig, name: str, settings: dict[str, Any], goes_on: bool = False
) -> Journal:
    """The journal that `config` asks for, in place of an earlier one or, where the training goes on, after it."""
    sinks: list[Sink] = [JsonLines(path, goes_on)]
    if config.name == "wandb":
        sinks.append(WandB(config, name, path.parent, settings))
    if config.name == "tensorboard":
        sinks.append(TensorBoard(path.parent / "tensorboard"))
    return Journal(sinks)
