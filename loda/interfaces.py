"""What adapters and approximations offer. This file imports nothing of the library.

One file in `loda/adapters/` or `loda/approx/` holds a settings class, with a class attribute `name` for YAML and saved
adapters, and the module that the settings create. Nothing has to be registered.
Weights are written (d_in, d_out), in the paper's row-vector convention h = x W.
"""

from collections.abc import Sequence
from dataclasses import Field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Adapter(Protocol):
    """A trained map beside a projection or another module: Delta h = f(x), zero right after construction."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map `(*, d_in)` to `(*, d_out)`."""

    def macs(self) -> int:
        """Multiply-accumulates per token."""


@runtime_checkable
class LinearAdapter(Adapter, Protocol):
    """An adapter that is linear for all or some settings: f(x) = x Delta W. Only linear adapters can be merged."""

    def weight(self) -> Tensor | None:
        """Delta W (d_in, d_out), or None if the settings make f non-linear."""


def is_linear_adapter(adapter: object) -> bool:
    """Whether `adapter` is linear with the settings that it has."""
    return isinstance(adapter, LinearAdapter) and adapter.weight() is not None


@runtime_checkable
class Reparametrised(Protocol):
    """A module whose training-only parameters are dropped when it is saved."""

    def folded(self) -> dict[str, nn.Parameter]:
        """The parameters that are saved, by their names in the module."""

    def fold(self) -> None:
        """Replace the training-only parameters by the saved ones; the function stays the same."""


class BaseProjection(Protocol):
    """What W_proj has become: h = x W~ + b, with W~ = W, W_A W_B or a sparse W. A module with a strict state dict."""

    energy: Tensor | float
    """1 - ||W - W~||_F^2 / ||W||_F^2, the kept fraction of the squared Frobenius norm (Figure 2)."""

    @property
    def weight(self) -> Tensor:
        """W~ (d_in, d_out)."""

    @property
    def bias(self) -> Tensor | None:
        """b (d_out,)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map `(*, d_in)` to `(*, d_out)`."""

    def macs(self) -> int:
        """Multiply-accumulates per token."""


class ApproxLinear(BaseProjection, Protocol):
    """A base projection whose W~ only approximates W."""

    def split(self, widths: Sequence[int], biases: Sequence[Tensor | None]) -> Sequence[nn.Module]:
        """Cut [W_q, W_k, W_v]~ into neighbours of `widths` columns, each with its bias.

        Models with three modules for q, k and v hold a joint approximation like this. `self` has no bias. Parameters
        that the parts share are one object, also after loading.
        """


@runtime_checkable
class AdapterConfig(Protocol):
    """The settings of an adapter, a `loda.settings` class."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    name: ClassVar[str]

    def check(self, model: nn.Module, adapted: Sequence[str]) -> None:
        """Raise LodaError if the method does not fit `model`, which is still unchanged, or its modules `adapted`."""

    def attach(self, model: nn.Module) -> None:
        """Add the trained modules to `model`, or unfreeze parameters of it. All its parameters are frozen before."""


@runtime_checkable
class ApproxConfig(Protocol):
    """The settings of an approximation, a `loda.settings` class.

    An attribute `is_projection` that is true says that W~ is an orthogonal projection of W, so that more of a stored
    approximation can be checked against W.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    name: ClassVar[str]

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError if the settings do not fit a (d_in, d_out) weight."""

    def approximate(self, weight: Tensor, bias: Tensor | None, moment: Tensor | None = None) -> nn.Module:
        """Return the `BaseProjection` for `weight` (d_in, d_out) and `bias` (d_out,). May be slow, changes neither.

        `moment` (d_in, d_in) is that of the inputs (`loda.calibration`), where the settings ask for it.
        """
