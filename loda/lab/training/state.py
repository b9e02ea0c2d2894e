"""The state of a training, from which it goes on as if it had never stopped: bit for bit on the same machine.

    state/step-1200/
      tensors.safetensors    trained parameters, the optimiser's moments, torch's generators, losses not yet logged
      state.json             batches seen, learning-rate step, generators of Python and numpy, place in the journal
      sha256.json            hashes of the two

The order of the rows follows from the seed and the number of batches seen; so does the learning rate. There is one
state at a time: the one before goes when the next is complete, and the last when the training is.
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

from loda.atomic import discard_folder, flush, sha256, unwritable
from loda.errors import LodaError
from loda.lab.processes import process_count, process_index
from loda.lab.training.optimizer import ReferenceAdamW
from loda.sealed import check_folder, read_json, write_sealed, write_sealed_folder

TENSORS, SUMMARY = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class State:
    """A training after `step` batches.

    Attributes:
        step: batches seen.
        updates: updates made, by the optimiser's count.
        seconds: wall-clock time so far.
        loss: mean loss of the journal's last line.
        resumed: how often the training was taken up again.
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

    @property
    def losses(self) -> list[Tensor]:
        """The losses since the journal's last line."""
        return list(self.tensors["losses"])


def tensors_of(
    parameters: Mapping[str, nn.Parameter], optimizer: ReferenceAdamW, losses: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Parameters, moments and losses, copied to the CPU."""
    found = {f"parameter/{name}": parameter for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        found |= {f"{kind}/{name}": moment for kind, moment in optimizer.state[parameter].items()}
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.items()}
    return plain | {"losses": torch.stack(list(losses)).cpu() if losses else torch.empty(0)}


@torch.no_grad()
def put_back(state: State, parameters: Mapping[str, nn.Parameter], optimizer: ReferenceAdamW) -> None:
    """Give parameters and optimiser what they had.

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


def generators() -> dict[str, Any]:
    """The states of Python's and numpy's generators, as JSON has them."""
    version, numbers, gauss = random.getstate()
    kind, words, *rest = np.random.get_state(legacy=True)
    return {"python": [version, list(numbers), gauss], "numpy": [kind, np.asarray(words).tolist(), *rest]}


def torch_generators(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators in this process, one row each."""
    found = {"generator/cpu": torch.get_rng_state()[None]}
    if device.type == "cuda":
        found["generator/cuda"] = torch.cuda.get_rng_state(device)[None]
    return found


def put_back_generators(state: State, device: torch.device) -> None:
    """Give all generators of this process what they had.

    Raises:
        LodaError: the state is that of another number of processes.
    """
    rows = state.tensors["generator/cpu"]
    if len(rows) != process_count():
        raise LodaError(
            f"the training was stopped with {len(rows)} processes and is taken up with {process_count()}; start as "
            "many, or delete the run's folder state/ to train anew"
        )
    version, numbers, gauss = state.generators["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, words, *rest = state.generators["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(rows[process_index()])
    if device.type == "cuda" and "generator/cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["generator/cuda"][process_index()], device)


def save_state(state: State, folder: Path, journal: Path) -> None:
    """Write `state` into `folder`, then delete the one before; of the journal, length and hash are kept.

    Raises:
        LodaError: it cannot be written.
    """
    content = {name: value for name, value in vars(state).items() if name != "tensors"}
    if journal.exists():
        try:
            flush(journal)  # or a power cut could leave a state whose journal is shorter than it says
        except OSError as error:
            raise unwritable(journal, error) from error
        content["journal"] = {"bytes": journal.stat().st_size, "sha256": sha256(journal)}
    else:
        content["journal"] = None

    def fill(temporary: Path) -> None:
        save_file(state.tensors, temporary / TENSORS)
        write_sealed(temporary / SUMMARY, content)

    place = folder / f"step-{state.step}"
    write_sealed_folder(place, fill)
    for other in folder.glob("step-*"):
        if other != place:
            discard_folder(other)


def load_state(folder: Path, journal: Path) -> State | None:
    """The latest state in `folder`, None without one; the journal is cut to what it was then.

    Raises:
        LodaError: the state or the journal is damaged.
    """
    places = sorted(folder.glob("step-*"), key=lambda place: int(place.name.partition("-")[2]))
    if not places:
        return None
    check_folder(places[-1])
    content = read_json(places[-1] / SUMMARY)
    kept = content.pop("journal")
    if kept is not None:
        _cut(journal, kept["bytes"], kept["sha256"], folder)
    # Copies: load_file maps the file, which the next state deletes.
    return State(**content, tensors={name: t.clone() for name, t in load_file(places[-1] / TENSORS).items()})


def _cut(journal: Path, size: int, expected: str, folder: Path) -> None:
    try:
        with journal.open("r+b") as file:
            found = hashlib.sha256(file.read(size)).hexdigest()
            if found == expected:
                file.truncate(size)
    except OSError as error:
        raise LodaError(f"{journal} cannot be read ({error.strerror}); delete {folder} to train anew") from error
    if found != expected:
        raise LodaError(f"{journal} is not what was written; delete {folder} to train anew")
