"""The state of a training, from which it continues as if it had never stopped: bit for bit on the same machine.

A stage `state/step-N` holds in tensors.safetensors the trained parameters, the optimiser's moments, torch's generators
and the losses not yet logged, and in its manifest the rest. The order of the examples and the learning rate follow from
seed and step. There is one state at a time: the previous one goes when the next is complete, and the last when the
training is.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loda.atomic import discard_folder, flush, sha256, wrap_os_errors
from loda.errors import LodaError
from loda.lab.processes import process_count, process_index
from loda.lab.run import Run
from loda.lab.training.optimizer import ReferenceAdamW

TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class State:
    """A training after `step` batches.

    Attributes:
        step: batches seen.
        updates: updates made, by the optimiser's count.
        seconds: wall-clock time so far.
        loss: mean loss of the last line of metrics.jsonl.
        resumed: how often the training was resumed.
        generators: states of Python's and numpy's generators.
        tensors: the rest.
    """

    step: int
    updates: int
    seconds: float
    loss: float | None
    resumed: int
    generators: dict[str, Any]
    tensors: dict[str, Tensor]


def collect_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: ReferenceAdamW, losses: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Parameters, moments and losses, copied to the CPU."""
    found = {f"parameter/{name}": parameter for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        found |= {f"{kind}/{name}": moment for kind, moment in optimizer.state[parameter].items()}
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.items()}
    return plain | {"losses": torch.stack(list(losses)).cpu() if losses else torch.empty(0)}


@torch.no_grad()
def restore_tensors(state: State, parameters: Mapping[str, nn.Parameter], optimizer: ReferenceAdamW) -> None:
    """Restore parameters and optimiser.

    Raises:
        LodaError: the state is that of other parameters.
    """
    saved = {name.partition("/")[2] for name in state.tensors if name.startswith("parameter/")}
    if saved != set(parameters):
        raise LodaError("the saved state of the training has other parameters; delete the run's folder state/")
    for name, parameter in parameters.items():
        parameter.copy_(state.tensors[f"parameter/{name}"])
        for kind in ("mean", "square"):
            if f"{kind}/{name}" in state.tensors:
                optimizer.state[parameter][kind] = state.tensors[f"{kind}/{name}"].to(parameter.device)
    for group in optimizer.param_groups:
        group["t"] = state.updates


def plain_generators() -> dict[str, Any]:
    """The states of Python's and numpy's generators as JSON has them."""
    version, numbers, gauss = random.getstate()
    kind, words, *rest = np.random.get_state(legacy=True)
    return {"python": [version, list(numbers), gauss], "numpy": [kind, np.asarray(words).tolist(), *rest]}


def torch_generators(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators in this process, one row each."""
    found = {"generator/cpu": torch.get_rng_state()[None]}
    if device.type == "cuda":
        found["generator/cuda"] = torch.cuda.get_rng_state(device)[None]
    return found


def restore_generators(state: State, device: torch.device) -> None:
    """Restore all generators of this process.

    Raises:
        LodaError: the state is that of another number of processes.
    """
    rows = state.tensors["generator/cpu"]
    if len(rows) != process_count():
        raise LodaError(
            f"the training was stopped with {len(rows)} processes and is resumed with {process_count()}; start "
            f"{len(rows)}, or delete the run's folder state/ to train again"
        )
    version, numbers, gauss = state.generators["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, words, *rest = state.generators["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), *rest))
    # Copies: torch 2.13 reads a row view, which has a storage offset, wrongly and crashes.
    torch.set_rng_state(rows[process_index()].clone())
    if device.type == "cuda" and "generator/cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["generator/cuda"][process_index()].clone(), device)


def save_state(run: Run, state: State) -> None:
    """Save `state`, then delete the previous one. Length and hash of metrics.jsonl are kept with it.

    Raises:
        LodaError: it cannot be written.
    """
    content = {name: value for name, value in vars(state).items() if name != "tensors"}
    content["metrics"] = _length_and_hash(run.metrics_file)
    run.state(state.step).write(lambda folder: save_file(state.tensors, folder / TENSORS), content)
    for step in _steps(run):
        if step != state.step:
            discard_folder(run.state(step).path)


def load_state(run: Run) -> State | None:
    """The latest state of a run, None without one; metrics.jsonl is cut to its length at that time.

    Raises:
        LodaError: the state or metrics.jsonl is damaged, or of another run.
    """
    steps = _steps(run)
    if not steps:
        return None
    stage = run.state(steps[-1])
    content = stage.load().content
    length, expected = content.pop("metrics")
    _cut(run.metrics_file, length, expected, stage.path.parent)
    # Copies: load_file maps the file, which the next state deletes.
    tensors = {name: tensor.clone() for name, tensor in load_file(stage.path / TENSORS).items()}
    return State(**content, tensors=tensors)


def discard_state(run: Run) -> None:
    discard_folder(run.path / "state")


def _steps(run: Run) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run.path / "state").glob("step-*"))


def _length_and_hash(path: Path) -> tuple[int, str]:
    if not path.exists():
        return 0, ""
    with wrap_os_errors(path):
        flush(path)  # or a power cut could leave a state whose metrics.jsonl is shorter than it says
    return path.stat().st_size, sha256(path)


def _cut(path: Path, length: int, expected: str, states: Path) -> None:
    if not length:
        return
    try:
        with path.open("r+b") as file:
            found = hashlib.sha256(file.read(length)).hexdigest()
            if found == expected:
                file.truncate(length)
    except OSError as error:
        raise LodaError(f"{path} cannot be read ({error.strerror}); delete {states} to train again") from error
    if found != expected:
        raise LodaError(f"{path} was changed after it was written; delete {states} to train again")
