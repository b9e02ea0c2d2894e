"""The second moment M (d_in, d_in) of a projection's inputs (`loda.calibration`), as approximations use it."""

import torch
from torch import Tensor

from loda.errors import LodaError

DAMPING = 1e-3


def given(moment: Tensor | None, calibration: int, like: Tensor) -> Tensor:
    """Return `moment` in fp64 beside `like`; LodaError without one, although `calibration` asks for it."""
    if moment is None:
        raise LodaError(
            f"calibration={calibration} needs the inputs: give approximation=loda.approximate(model, config, "
            "loda.second_moments(model, config, batches)), or load a stored approximation"
        )
    return moment.to(like.device, torch.float64)


def damped(moment: Tensor, damping: float) -> Tensor:
    """Return M + damping mean(diag M) I."""
    identity = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    return moment + damping * moment.diagonal().mean() * identity


def root(moment: Tensor, damping: float, index: Tensor | None = None) -> Tensor:
    """Return the Cholesky factor L (d_in, d_in) of the damped moment, or of its rows and columns `index`.

    Raises:
        LodaError: it is not positive definite.
    """
    whole = damped(moment, damping)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(whole if index is None else whole[index][:, index])
    if failed:
        raise LodaError(f"damping={damping} leaves the moment of the inputs singular; raise it, or give more examples")
    return factor
