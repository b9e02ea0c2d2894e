"""The two nouns of the architecture, as protocols: a frozen projection and an adapter.

One file in `loda/adapters/` exports a `Config` and, where it adds modules, an `Adapter`; one file in `loda/approx/`
exports a `Config` and a `Frozen`. The file's name is the name used in YAML and in saved adapters: nothing has to be
registered.
Weights are held in one orientation, (d_in, d_out), the paper's row-vector convention h = x W.
"""

from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

if TYPE_CHECKING:
    from loda.adapters.bottleneck import Form
    from loda.projection import AdaptedProjection


@runtime_checkable
class Adapter(Protocol):
    """What is learned beside a projection or another module: Delta h = f(x), zero right after construction."""

    def __call__(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        ...

    def macs(self) -> int:
        """Multiply-accumulates per token."""
        ...


@runtime_checkable
class LinearAdapter(Adapter, Protocol):
    """An adapter with f(x) = x Delta W; only these can be merged."""

    def weight(self) -> Tensor:
        """Delta W, (d_in, d_out)."""
        ...


@runtime_checkable
class Bottleneck(Adapter, Protocol):
    """An adapter of the form of Eq. 2, which `loda.optimize_for_inference` knows how to make fast."""

    def form(self) -> "Form":
        """Its parts."""
        ...


@runtime_checkable
class Reparametrised(Protocol):
    """A module that is trained through other parameters than it keeps."""

    def folded(self) -> dict[str, nn.Parameter]:
        """What it keeps, by name within the module."""
        ...

    def fold(self) -> None:
        """Replace what is trained by what is kept; the function stays the same."""
        ...


class Frozen(Protocol):
    """What W_proj has become: h = x W~ + bias. Only fine-tuning trains it, and never an approximation."""

    def __call__(self, x: Tensor) -> Tensor:
        """(*, d_in) -> (*, d_out)."""
        ...

    def dense(self) -> Tensor:
        """W~ as one matrix (d_in, d_out), for checks and merging."""
        ...

    def macs(self) -> int:
        """Multiply-accumulates per token."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What `approximate` returned and `build` took, to be stored."""
        ...

    @property
    def energy(self) -> float:
        """||W~||_F^2 / ||W||_F^2, the kept fraction of the squared Frobenius norm (Figure 2)."""
        ...


@runtime_checkable
class Factored(Protocol):
    """A frozen projection that is one matrix or a product of two, for `loda.optimize_for_inference`."""

    bias: Tensor | None

    def factors(self) -> tuple[Tensor, ...]:
        """(W,) or (W_A, W_B) with W~ = W_A W_B."""
        ...


class AdapterConfig(Protocol):
    """Settings of an adapter, a frozen dataclass that knows how to attach itself to a model."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def check(self, model: nn.Module) -> None:
        """Raise LodaError where the method does not fit `model`, which nothing has touched yet."""
        ...

    def attach(
        self,
        model: nn.Module,
        projections: Mapping[str, "AdaptedProjection"],
        slices: Sequence[str],
    ) -> None:
        """Add what is trained to `model`, whose parameters are all frozen at this point, or unfreeze some of them."""
        ...


class ApproxConfig(Protocol):
    """Settings of an approximation, a frozen dataclass.

    `approximate` is pure and may be slow (an SVD); its tensors can be stored and given to `build` later.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def check(self, d_in: int, d_out: int) -> None:
        """Raise LodaError where the settings do not fit a (d_in, d_out) weight."""
        ...

    def approximate(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for `weight` (d_in, d_out)."""
        ...

    def split(self, tensors: Mapping[str, Tensor], widths: Sequence[int]) -> list[dict[str, Tensor]]:
        """The tensors of neighbouring parts, `widths` columns each, of what `approximate` returned."""
        ...

    def build(self, tensors: Mapping[str, Tensor], bias: Tensor | None) -> nn.Module:
        """A `Frozen` module over what `approximate` returned."""
        ...
