"""The non-linear functions inside LoDA: f1 between A and B, f2 after B (Eq. 1 and 2 of the paper).

Both are a stack of the same three operations on the last dimension:

    linear      u -> u W        W is r x r, no bias, trained
    norm        u -> (u - mean(u)) / sqrt(var(u) + eps)     LayerNorm without affine parameters
    activation  u -> LeakyReLU(u), negative slope 0.8

The paper fixes the parts (two r x r matrices, slope 0.8, "layer-normalization is not trainable", section 3.1)
but not their order, nor the composition of f2; both are settings here. Every operation maps 0 to 0 and none has
a bias, so a stack with one zero matrix is the zero function and LoDA(+) is then exactly LoRA.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from loda.errors import LodaError

OPERATIONS = ("linear", "norm", "activation")


@dataclass(frozen=True)
class StackConfig:
    """A stack of `stages` equal stages; `order` names the operations of one stage, joined by "-".

    Raises:
        LodaError: an unknown or repeated operation in `order`, or a number out of its range.
    """

    stages: int = 2
    order: str = "linear-norm-activation"
    negative_slope: float = 0.8
    eps: float = 1e-5

    def __post_init__(self) -> None:
        names = self.operations
        if not names or len(set(names)) != len(names) or not set(names) <= set(OPERATIONS):
            raise LodaError(
                f"order={self.order!r} is not a list of different operations out of "
                f"{', '.join(OPERATIONS)}; write for example order=linear-norm-activation"
            )
        if self.stages < 1:
            raise LodaError(f"stages={self.stages} must be at least 1; use adapter=lora for no f1")
        if self.eps <= 0:
            raise LodaError(f"eps={self.eps} must be positive; the default is 1e-5")

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations of one stage, in order."""
        return tuple(self.order.split("-"))


F2_DEFAULT = StackConfig(stages=1, order="activation")


class Stack(nn.Module):
    """`stages` x (linear, norm, activation in the configured order): (*, r) -> (*, r).

    Source: paper, Figure 1b and 1e. The matrices start as `nn.Linear` does: U(-1/sqrt(r), 1/sqrt(r)).
    """

    def __init__(self, config: StackConfig, width: int) -> None:
        super().__init__()
        self.config = config
        has_linear = "linear" in config.operations
        self.linears = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(config.stages if has_linear else 0)
        )

    def forward(self, u: Tensor) -> Tensor:
        """Apply the stack to the last dimension: (*, r) -> (*, r)."""
        for stage in range(self.config.stages):
            for operation in self.config.operations:
                if operation == "linear":
                    u = self.linears[stage](u)
                elif operation == "norm":
                    u = F.layer_norm(u, u.shape[-1:], eps=self.config.eps)
                else:
                    u = F.leaky_relu(u, self.config.negative_slope)
        return u

    def macs(self) -> int:
        """Multiply-accumulates per token: r^2 for each matrix (element-wise work is not counted, section 3.2)."""
        return sum(parameter.numel() for parameter in self.parameters())
