"""Whether the model calls a module, or multiplies by its weight itself: an adapter beside the latter would be dead.

Mamba's kernels take `self.out_proj.weight`, `nn.MultiheadAttention` and the fast path of `nn.TransformerEncoderLayer`
take theirs. The code of the modules around a target tells: it names the weight, and not only to look at its dtype.
"""

import inspect
import re
from collections.abc import Hashable, Iterable
from functools import cache
from typing import cast

from torch import nn

from loda.errors import LodaError

# self.out_proj.weight, but not self.wo.weight.dtype, isinstance(self.wo.weight, Tensor) or an assignment.
_READ = re.compile(r"(?<!isinstance\()\bself\.([\w.]+)\.weight\b(?!\.(?:dtype|device|shape|size|_)|\s*=[^=])")


def check_called(model: nn.Module, names: Iterable[str]) -> None:
    """Raise LodaError if code of `model` multiplies by the weight of one of the modules `names` itself."""
    for name in names:
        path = name.split(".")
        for depth in range(len(path)):
            around, within = model.get_submodule(".".join(path[:depth])), ".".join(path[depth:])
            # BLOOM multiplies by slices of its weights only if this setting of its configuration is on.
            if within in _weights_read(cast(Hashable, type(around))) and getattr(around, "slow_but_exact", True):
                raise LodaError(
                    f"{type(around).__name__} multiplies by the weight of {name} itself instead of calling the module, "
                    "so an adapter there would be dead; leave it out of the targets"
                )


@cache
def _weights_read(kind: Hashable) -> frozenset[str]:
    """Return the names of modules, within a module of class `kind`, whose weight its methods multiply by."""
    found: set[str] = set()
    for name in dir(kind):
        method = inspect.unwrap(getattr(kind, name)) if inspect.isfunction(getattr(kind, name, None)) else None
        if method is None or re.match("_*(init|reset)_", name) or "weight" not in method.__code__.co_names:
            continue
        try:
            found.update(_READ.findall(inspect.getsource(method)))
        except OSError:  # code without its source, such as that of a notebook's closed cell, is taken to call modules
            continue
    return frozenset(found)
