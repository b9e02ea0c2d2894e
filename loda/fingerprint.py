"""A name for the weights of a model, so that an adapter is only ever loaded on the base it was trained on."""

import hashlib

import torch
from torch import nn


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """sha256 over name, shape, dtype and bytes of every parameter; tied parameters count once.

    A model on the meta device has no bytes; its fingerprint covers names, shapes and dtypes.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        if not parameter.is_meta:
            data = parameter.detach().cpu().contiguous().flatten()
            digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()
