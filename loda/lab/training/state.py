"""The state of a training, from which it continues as if it had never stopped: bit for bit on the same machine.

A stage `state/step-N` holds in tensors.safetensors the trained parameters, the optimiser's moments, torch's generators
and the losses not yet logged, and in its manifest the numbers. The order of the examples and the learning rate follow
from seed and step. There is one state at a time: the previous one goes when the next is complete, and the last when the
training is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loda.atomic import discard_folder, write_text
from loda.errors import LodaError
from loda.lab.processes import is_main_process, process_count, process_index
from loda.lab.run import Run
from loda.lab.training.metrics_logger import read_metrics
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
        tensors: the rest.
    """

    step: int
    updates: int
    seconds: float
    loss: float | None
    resumed: int
    tensors: dict[str, Tensor]


def collect_tensors(parameters: Mapping[str, nn.Parameter], optimizer: ReferenceAdamW) -> dict[str, Tensor]:
    """Parameters and moments, copied to the CPU."""
    found = {f"parameter/{name}": parameter for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        found |= {f"{kind}/{name}": moment for kind, moment in optimizer.state[parameter].items()}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.items()}


@torch.no_grad()
def restore_tensors(state: State, parameters: Mapping[str, nn.Parameter], optimizer: ReferenceAdamW) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(state.tensors[f"parameter/{name}"])
        for kind in ("mean", "square"):
            if f"{kind}/{name}" in state.tensors:
                optimizer.state[parameter][kind] = state.tensors[f"{kind}/{name}"].to(parameter.device)
    for group in optimizer.param_groups:
        group["t"] = state.updates


def torch_generators(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators in this process, one row each."""
    found = {"generator/cpu": torch.get_rng_state()[None]}
    if device.type == "cuda":
        found["generator/cuda"] = torch.cuda.get_rng_state(device)[None]
    return found


def restore_generators(state: State, device: torch.device) -> None:
    """Restore torch's generators in this process.

    Raises:
        LodaError: the state is that of another number of processes.
    """
    rows = state.tensors["generator/cpu"]
    if len(rows) != process_count():
        raise LodaError(
            f"the training was stopped with {len(rows)} processes and is resumed with {process_count()}; start "
            f"{len(rows)}, or delete the run's folder state/ to train again"
        )
    # Copies: torch 2.13 reads a row view, which has a storage offset, wrongly and crashes.
    torch.set_rng_state(rows[process_index()].clone())
    if device.type == "cuda" and "generator/cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["generator/cuda"][process_index()].clone(), device)


def save_state(run: Run, state: State) -> None:
    """Save `state`, then delete the previous one.

    Raises:
        LodaError: it cannot be written.
    """
    content = {name: value for name, value in vars(state).items() if name != "tensors"}
    run.state(state.step).write(lambda folder: save_file(state.tensors, folder / TENSORS), content)
    for step in _steps(run):
        if step != state.step:
            discard_folder(run.state(step).path)


def load_state(run: Run) -> State | None:
    """The latest state of a run, None without one or over another approximation. Newer lines of metrics are dropped.

    Raises:
        LodaError: the state is damaged, or of another run.
    """
    steps = _steps(run)
    if not steps or (stage := run.state(steps[-1])).find() is None:
        return None
    content = stage.load().content
    # Copies: load_file maps the file, which the next state deletes.
    tensors = {name: tensor.clone() for name, tensor in load_file(stage.path / TENSORS).items()}
    if is_main_process():
        # With losses that are not logged, a line of this very step was the one that could not be written.
        last = steps[-1] - 1 if len(tensors["losses"]) else steps[-1]
        kept = [line for line in read_metrics(run.metrics_file) if line["step"] <= last]
        write_text(run.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))
    return State(**content, tensors=tensors)


def seconds_per_step(run: Run) -> float | None:
    """How long a batch took until the last state was saved; None without one."""
    found = run.state(steps[-1]).find() if (steps := _steps(run)) else None
    return None if found is None else float(found.content["seconds"] / found.content["step"])


def discard_state(run: Run) -> None:
    discard_folder(run.path / "state")


def _steps(run: Run) -> list[int]:
    names = (path.name.removeprefix("step-") for path in (run.path / "state").glob("step-*"))
    return sorted(int(name) for name in names if name.isdecimal())
