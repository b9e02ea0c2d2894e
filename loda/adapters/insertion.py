"""Modules that `lin`, `houlsby` and `prefix` insert into the base model elsewhere than beside a projection.

An `Insertion` is a child of the module that it changes, its host, and acts through hooks on the host. It replaces no
module of the base, so all names stay.
"""

from torch import nn
from torch.utils.hooks import RemovableHandle

from loda.projection import placement

NAME = "inserted"
"""Name of the insertion in its host."""


class Insertion(nn.Module):
    """A module that changes what its host computes. Subclasses define the change in `hook`."""

    handles: list[RemovableHandle]

    def insert(self, host: nn.Module, model: nn.Module) -> None:
        """Become a child of `host`, a module of `model`, and register the hooks."""
        host.add_module(NAME, self.to(*placement(host, model)).train(host.training))
        self.handles = self.hook(host)

    def hook(self, host: nn.Module) -> list[RemovableHandle]:
        """Register the change on `host` and return the handles that remove it."""
        raise NotImplementedError

    def macs(self) -> int:
        """Multiply-accumulates per token that the insertion adds."""
        raise NotImplementedError


def insertions(model: nn.Module) -> dict[str, Insertion]:
    """Return the insertions in `model`, by module name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Insertion)}


def remove_insertions(model: nn.Module) -> None:
    """Take every insertion out of its host."""
    for name, insertion in insertions(model).items():
        for handle in insertion.handles:
            handle.remove()
        delattr(model.get_submodule(name.removesuffix(NAME).removesuffix(".")), NAME)
