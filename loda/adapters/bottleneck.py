"""LoRA, LoDA and LoDA+: one bottleneck, with the non-linear functions f1 and f2 present or absent.

    lora        no f1, no f2   Delta h = s x A B                      (Hu et al., 2022)
    loda        f1             Delta h = s (x A + f1(x A)) B          Eq. 1: the image is the range of B
    loda_plus   f1 and f2      Delta h = s (x A B + f2(f1(x A) B))    Eq. 2: the image also leaves the range of B

A is (d_in, r), B is (r, d_out), and s is the scale, by default alpha / r.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from loda.adapters.nonlinear import Stack, StackConfig
from loda.errors import LodaError
from loda.projection import placement, projections
from loda.settings import UNLESS_DEFAULT, settings


class Bottleneck(nn.Module):
    """Delta h = s (x A B + f2(f1(x A) B)), Eq. 2: `(*, d_in)` to `(*, d_out)`.

    Without f2 it is Eq. 1, Delta h = s (x A + f1(x A)) B. Without f1 it is LoRA, Delta h = s x A B, equal to one slice
    of `loralib.MergedLinear`. f2 has no parameters, so LoDA and LoDA+ both have r (d_in + d_out) + 2r^2.

    A (d_in, r) starts uniform in +-1/sqrt(d_in), which is LoRA's kaiming_uniform(a = sqrt(5)). B (r, d_out) starts at
    zero, so Delta h is zero at the start and the first step changes B alone.
    Source: section 2 of the paper, Figure 1a, 1b and 1e.

    Args:
        d_in: width of the input.
        d_out: width of the slice.
        r: width of the bottleneck.
        scale: s.
        f1: between A and B, on width r.
        f2: after B, on width d_out; only with f1.
        zero_b: whether B starts at zero; otherwise uniform in +-1/sqrt(r), as A in its width.
    """

    f1: Stack | None
    f2: Stack | None

    def __init__(
        self,
        d_in: int,
        d_out: int,
        r: int,
        scale: float,
        f1: StackConfig | None = None,
        f2: StackConfig | None = None,
        zero_b: bool = True,
    ) -> None:
        super().__init__()
        bound = d_in**-0.5
        self.scale = scale
        self.A = nn.Parameter(torch.empty(d_in, r).uniform_(-bound, bound))
        self.f1 = None if f1 is None else Stack(f1, r)
        self.B = nn.Parameter(torch.zeros(r, d_out) if zero_b else torch.empty(r, d_out).uniform_(-(r**-0.5), r**-0.5))
        self.f2 = None if f2 is None else Stack(f2, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, d_in) to (*, d_out)."""
        u = x @ self.A
        if self.f1 is None:
            delta = u @ self.B
        elif self.f2 is None:
            delta = (u + self.f1(u)) @ self.B  # B once, for the sum: 2rd + 2r^2 multiply-accumulates (Table 2)
        else:
            delta = u @ self.B + self.f2(self.f1(u) @ self.B)
        return self.scale * delta

    def weight(self) -> Tensor | None:
        """Delta W = s A B (d_in, d_out) without f1; with f1 no weight equals the map, and the result is None."""
        return self.scale * (self.A @ self.B) if self.f1 is None else None

    def macs(self) -> int:
        """Multiply-accumulates per token for d_in = d_out = d: LoRA 2rd, LoDA 2rd + 2r^2, LoDA+ 3rd + 2r^2.

        LoDA+ multiplies by B twice, hence 76.1M instead of 75.9M in Table 2.
        """
        inner = 0 if self.f1 is None else self.f1.macs()
        return self.A.numel() + inner + self.B.numel() * (1 if self.f2 is None else 2)


Rank = Annotated[int, Field(ge=1, le=65536)]
Alpha = Annotated[float, Field(gt=0, le=1e6)]


@settings
class SliceAdapterConfig:
    """Settings of an adapter beside slices of the projections.

    Attributes:
        dropout: on the input of the adapters, with one mask for all slices of a projection.
    """

    dropout: float = Field(default=0.0, ge=0, lt=1, description="the paper uses 0.1 for E2E")

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """Create the adapter of a (d_in, d_out) slice."""
        raise NotImplementedError

    def for_module(self, name: str) -> Self:
        """Return the settings that hold for the module `name`."""
        return self

    def check(self, model: nn.Module, adapted: Sequence[str]) -> None:
        """Accept every model that has projections."""

    def attach(self, model: nn.Module) -> None:
        """Put one adapter beside each adapted slice of each projection."""
        for name, projection in projections(model).items():
            device, dtype = placement(projection.base, model)
            settings = self.for_module(name)
            for part in projection.adapted:
                adapter = settings.build(projection.d_in, projection.slices[part].width)
                projection.adapt(part, adapter.to(device, dtype), self.dropout)


@settings
class LoRAConfig(SliceAdapterConfig):
    """LoRA (Hu et al., 2022): Delta h = s x A B.

    Attributes:
        r: width of the bottleneck.
        alpha: s = alpha / r. The paper uses LoRA's 32 for r = 4, and does not say whether alpha grows with r in
            Table 3. Here alpha is 32 for every r unless set.
        init: "independent" draws every adapter anew. "reference" starts every layer from the same values, as in LoRA's
            code, which builds one block and copies it.
        rank_pattern: other values of r by module, for example `{"c_proj": 8, r"h\\.1\\..*": 2}`. As in PEFT, a key is a
            regular expression for the end of a module's name, from a dot on, and the first that fits counts.
        alpha_pattern: the same for alpha.
        use_rslora: s = alpha / sqrt(r) (Kalajdzievski, 2023).
        init_weights: False starts B at random values, so that the adapter changes the model at once, for tests.

    Raises:
        LodaError: r < 1, alpha <= 0, a dropout outside [0, 1), an unknown init, or a pattern that is no regular
            expression; in `check`, a pattern that fits no adapted module.
    """

    name: ClassVar[str] = "lora"
    r: Rank = Field(default=4, description="the paper uses r=4")
    alpha: Alpha = Field(default=32.0, description="the paper uses alpha=32")
    init: Literal["independent", "reference"] = "independent"
    rank_pattern: dict[str, Rank] = field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)
    alpha_pattern: dict[str, Alpha] = field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)
    use_rslora: bool = field(default=False, metadata=UNLESS_DEFAULT)
    init_weights: bool = field(default=True, metadata=UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        for key in (*self.rank_pattern, *self.alpha_pattern):
            try:
                re.compile(key)
            except re.error as error:
                raise LodaError(
                    f"the pattern {key!r} is no regular expression ({error}); write the end of a module's name"
                ) from None
        for r in self.rank_pattern.values():
            replace(self, r=r, rank_pattern={})  # every rule for r holds for the others too

    @property
    def scale(self) -> float:
        """s = alpha / r, or alpha / sqrt(r) with `use_rslora`."""
        return self.alpha / (self.r**0.5 if self.use_rslora else self.r)

    def for_module(self, name: str) -> Self:
        """Return the settings that hold for the module `name`: its r and alpha, and no patterns."""
        r, alpha = _fitting(self.rank_pattern, name, self.r), _fitting(self.alpha_pattern, name, self.alpha)
        return replace(self, r=r, alpha=alpha, rank_pattern={}, alpha_pattern={})

    def check(self, model: nn.Module, adapted: Sequence[str]) -> None:
        """Raise LodaError if a pattern fits no projection that gets an adapter."""
        for setting, pattern in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            for key in pattern:
                if not any(_fits(key, name) for name in adapted):
                    raise LodaError(f"{setting}={pattern}: {key!r} fits no adapted module; correct it or leave it out")

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """Create the adapter of a (d_in, d_out) slice."""
        return Bottleneck(d_in, d_out, self.r, self.scale, zero_b=self.init_weights)

    def attach(self, model: nn.Module) -> None:
        """Put one adapter beside each adapted slice of each projection, and start it as `init` says."""
        super().attach(model)
        if self.init == "reference":
            first: dict[tuple[str, str, int], nn.Module] = {}
            for name, projection in projections(model).items():
                for part, adapter in projection.adapters.items():
                    # Modules that have the same name in their blocks, such as c_attn, start alike.
                    r = self.for_module(name).r
                    like = first.setdefault((name.rpartition(".")[2], part, r), adapter)
                    adapter.load_state_dict(like.state_dict())


def _fits(key: str, name: str) -> bool:
    """Whether `key` fits the end of a module's name; the rule of PEFT's `get_pattern_key`."""
    return re.match(rf"(.*\.)?({key})$", name) is not None


def _fitting(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for key, value in pattern.items() if _fits(key, name)), default)


@settings
class LoDAConfig(LoRAConfig):
    """LoDA, Eq. 1: Delta h = s (x A + f1(x A)) B. LoRA's settings and those of f1.

    Raises:
        LodaError: as for LoRA; an f1 without a matrix, which could learn nothing, or an f1 that is always zero.
    """

    name: ClassVar[str] = "loda"
    f1: StackConfig = StackConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if "linear" not in self.f1.operations:
            raise LodaError(
                f"f1.order={self.f1.order!r} has no linear operation; f1 needs its r x r matrices, "
                "write for example f1.order=linear-norm-activation"
            )
        if self.r == 1 and "norm" in self.f1.operations:
            raise LodaError(
                f"r=1 with f1.order={self.f1.order!r}: the LayerNorm of a single number is zero and so would be f1; "
                "use r=2 or more, or f1.order=linear-activation"
            )

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """Create the adapter of a (d_in, d_out) slice."""
        return Bottleneck(d_in, d_out, self.r, self.scale, self.f1, zero_b=self.init_weights)


@settings
class LoDAPlusConfig(LoDAConfig):
    """LoDA+, Eq. 2: Delta h = s (x A B + f2(f1(x A) B)). LoDA's settings and those of f2.

    The default f2 is the activation alone. A LayerNorm after B (f2.order=norm-activation) is allowed but not
    recommended: B starts at zero, where LayerNorm divides by sqrt(eps) and inflates B's gradient.

    Raises:
        LodaError: as for LoDA; an f2 with a matrix, because f2 has no parameters in the paper.
    """

    name: ClassVar[str] = "loda_plus"
    f2: StackConfig = StackConfig(stages=1, order="activation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "linear" in self.f2.operations:
            raise LodaError(
                f"f2.order={self.f2.order!r} has a linear operation; f2 has no parameters, "
                "write f2.order=activation, norm-activation or activation-norm"
            )

    def build(self, d_in: int, d_out: int) -> nn.Module:
        """Create the adapter of a (d_in, d_out) slice."""
        return Bottleneck(d_in, d_out, self.r, self.scale, self.f1, self.f2, zero_b=self.init_weights)
