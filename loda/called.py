"""Whether the model calls a module, or multiplies by its weight itself: an adapter beside the latter would be dead.

Mamba's kernels take `self.out_proj.weight`, `nn.MultiheadAttention` and the fast path of `nn.TransformerEncoderLayer`
take theirs. The code of the modules around a target tells: the weight is an operand or an argument in it.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Hashable, Iterable, Iterator
from functools import cache
from typing import cast

from torch import nn

from loda.errors import LodaError

# What code asks of a weight without multiplying by it, and the calls that only look at one or start it.
_ASKED = {"dtype", "device", "shape", "size", "ndim", "numel", "grad", "requires_grad", "data", "clone", "is_meta"}
_LOOKING = re.compile(r"isinstance|hasattr|getattr|is_\w+|\w*init\w*|\w+_like|\w+_")


def check_called(model: nn.Module, names: Iterable[str]) -> None:
    """Raise LodaError if code of `model` multiplies by the weight of one of the modules `names` itself."""
    for name in names:
        path = name.split(".")
        for depth in range(len(path)):
            around, within = model.get_submodule(".".join(path[:depth])), ".".join(path[depth:])
            # BLOOM multiplies by slices of its weights only if this setting of its configuration is on.
            if within in _weights_used(cast(Hashable, type(around))) and getattr(around, "slow_but_exact", True):
                raise LodaError(
                    f"{type(around).__name__} multiplies by the weight of {name} itself instead of calling the module, "
                    "so an adapter there would be dead; leave it out of the targets"
                )


@cache
def _weights_used(kind: Hashable) -> frozenset[str]:
    """Return the names of modules, within a module of class `kind`, whose weight its methods multiply by."""
    found: set[str] = set()
    for name in dir(kind):
        method = inspect.unwrap(getattr(kind, name)) if inspect.isfunction(getattr(kind, name, None)) else None
        if method is None or re.match("_*(init|reset)_", name) or "weight" not in method.__code__.co_names:
            continue
        try:
            code = ast.parse(textwrap.dedent(inspect.getsource(method)))
        except (OSError, SyntaxError):  # code whose source cannot be read is taken to call modules
            continue
        found.update(path for node in ast.walk(code) for used in _used(node) if (path := _owner(used)))
    return frozenset(found)


def _used(node: ast.AST) -> Iterator[ast.expr]:
    """The parts of operands, arguments and new names in `node` that are not merely looked at."""
    pending: list[ast.AST] = []
    if isinstance(node, ast.BinOp):
        pending = [node.left, node.right]
    elif isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
        pending = [node.value]
    elif isinstance(node, ast.Call) and not _LOOKING.fullmatch(ast.unparse(node.func).rpartition(".")[2]):
        pending = [*node.args, *(keyword.value for keyword in node.keywords), node.func]
    while pending:
        part = pending.pop()
        if isinstance(part, ast.Attribute) and part.attr in _ASKED:
            continue
        if isinstance(part, ast.expr):
            yield part
        pending += ast.iter_child_nodes(part)


def _owner(part: ast.expr) -> str | None:
    """The name of the module in `self.NAME.weight`; None for anything else."""
    match = re.fullmatch(r"self\.([\w.]+)\.weight", ast.unparse(part)) if isinstance(part, ast.Attribute) else None
    return match[1] if match else None
