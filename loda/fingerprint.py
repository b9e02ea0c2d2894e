"""A name for the weights of a model, so that an adapter is only ever loaded on the base it was trained on."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """`fingerprint_of` every parameter; tied parameters count once."""
    return fingerprint_of(dict(model.named_parameters()))


@torch.no_grad()
def fingerprint_of(parameters: Mapping[str, Tensor]) -> str:
    """sha256 over name, shape, dtype and bytes of every parameter.

    On the meta device there are no bytes; the fingerprint covers names, shapes and dtypes.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters.items()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        if not parameter.is_meta:
            data = parameter.detach().cpu().contiguous().flatten()
            digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()
