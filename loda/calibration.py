"""The second moment of what enters each projection, by which an approximation knows where it may err.

    M = mean over tokens of x^T x,   x (1, d_in)

Over these tokens the mean squared error of the outputs is ||x (W - W~)||^2 = tr((W - W~)^T M (W - W~)).
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from loda.approx.low_rank import SharedProduct
from loda.config import LodaConfig
from loda.errors import LodaError
from loda.model import check_holds_no_adapters, targets_of
from loda.wrappers import on_inner_model


class Moment:
    """A forward pre-hook that adds up x^T x of the inputs of one module; `square` is shared by modules that may read
    the same inputs.
    """

    def __init__(self, width: int, square: SharedProduct, leads: bool) -> None:
        self.total = torch.zeros(width, width, dtype=torch.float64)
        self.tokens = 0
        self.square, self.leads = square, leads

    def __call__(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Add the inputs of a forward pass of `module`."""
        self.total += self.square(arguments[0], _square, self.leads)
        self.tokens += arguments[0].shape[:-1].numel()

    def mean(self) -> Tensor:
        """M (d_in, d_in)."""
        return self.total / self.tokens


def _square(x: Tensor) -> Tensor:
    """x^T x (d_in, d_in), summed in fp32 and returned in fp64: a tenth of the time, and no digit lost that matters."""
    rows = x.detach().flatten(0, -2).float()
    return (rows.T @ rows).cpu().double()


@on_inner_model
@torch.no_grad()
def second_moments(model: nn.Module, config: LodaConfig, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return M (d_in, d_in) of the inputs of each projection that `config` approximates, by name, in fp64 on the CPU.

    Args:
        model: the base, without adapters, in evaluation mode.
        config: says which projections.
        batches: token ids (examples, length) on the device of the model, without padding.

    Raises:
        LodaError: adapters in the model, no batch, or a projection that no token reached.
    """
    check_holds_no_adapters(model)
    targets = targets_of(model, config)
    groups: dict[str, list[str]] = defaultdict(list)
    for target in targets:
        groups[target.group].append(target.name)
    squares = {group: SharedProduct(len(names)) for group, names in groups.items()}
    found = {t.name: Moment(t.shape[0], squares[t.group], t.name == groups[t.group][0]) for t in targets}
    with ExitStack() as hooks:
        for target in targets:
            hooks.callback(target.module.register_forward_pre_hook(found[target.name]).remove)
        for ids in batches:
            getattr(model, "base_model", model)(input_ids=ids)  # without the vocabulary's head
    idle = [name for name, moment in found.items() if not moment.tokens]
    if idle:
        raise LodaError(f"no token of the calibration reached {idle[0]} ({len(idle)} in all); give more batches")
    return {name: moment.mean() for name, moment in found.items()}
