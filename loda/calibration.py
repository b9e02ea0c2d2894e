"""The second moment of what enters each projection, by which an approximation knows where it may err.

    M = mean over tokens of x^T x,   x (1, d_in)

Over these tokens the mean squared error of the outputs is ||x (W - W~)||^2 = tr((W - W~)^T M (W - W~)).
"""

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from loda.config import LodaConfig
from loda.errors import LodaError
from loda.model import check_holds_no_adapters, targets_of
from loda.wrappers import on_inner_model


class Moment:
    """A forward pre-hook that adds up x^T x of the inputs of one module."""

    def __init__(self, width: int) -> None:
        self.total = torch.zeros(width, width, dtype=torch.float64)
        self.tokens = 0

    def __call__(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Add the inputs of a forward pass of `module`."""
        rows = arguments[0].detach().reshape(-1, self.total.shape[0]).float()
        # Products in fp32, their sum in fp64: this takes a tenth of the time and loses no digit that matters here.
        self.total += (rows.T @ rows).cpu().double()
        self.tokens += len(rows)

    def mean(self) -> Tensor:
        """M (d_in, d_in)."""
        return self.total / self.tokens


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
    found = {target.name: Moment(target.shape[0]) for target in targets}
    with ExitStack() as hooks:
        for target in targets:
            hooks.callback(target.module.register_forward_pre_hook(found[target.name]).remove)
        for ids in batches:
            getattr(model, "base_model", model)(input_ids=ids)  # without the vocabulary's head
    idle = [name for name, moment in found.items() if not moment.tokens]
    if idle:
        raise LodaError(f"no token of the calibration reached {idle[0]} ({len(idle)} in all); give more batches")
    return {name: moment.mean() for name, moment in found.items()}
