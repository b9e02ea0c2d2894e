"""The non-linear functions of LoDA: f1 between A and B, f2 after B (Eq. 1 and 2 of the paper).

Both are stacks of the same three operations on the last dimension:

    linear      u -> u W        W is r x r, no bias, trained
    norm        u -> (u - mean(u)) / sqrt(var(u) + eps)     LayerNorm without affine parameters
    activation  u -> LeakyReLU(u), negative slope 0.8
"""

from collections.abc import Callable, Sequence

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from loda.errors import LodaError
from loda.settings import settings

OPERATIONS = ("linear", "norm", "activation")


@settings
class StackConfig:
    """A stack of `stages` equal stages.

    The paper gives the operations (two r x r matrices, slope 0.8, "layer-normalization is not trainable", section 3.1)
    but neither their order nor what f2 consists of. Both are settings here.

    Attributes:
        stages: the number of stages.
        order: the operations of one stage in order, joined by "-".
        negative_slope: of LeakyReLU.
        eps: of the LayerNorm.

    Raises:
        LodaError: an unknown or repeated operation in `order`, stages < 1 or eps <= 0.
    """

    stages: int = Field(default=2, ge=1, le=64, description="for no f1 use adapter=lora")
    order: str = "linear-norm-activation"
    negative_slope: float = Field(default=0.8, ge=-1e3, le=1e3, description="the paper uses 0.8")
    eps: float = Field(default=1e-5, gt=0, le=1, description="the default is 1e-5")

    def __post_init__(self) -> None:
        if len(set(self.operations)) != len(self.operations) or not set(self.operations) <= set(OPERATIONS):
            raise LodaError(
                f"order={self.order!r} is not a list of different operations out of "
                f"{', '.join(OPERATIONS)}; write for example order=linear-norm-activation"
            )

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations of one stage, in order."""
        return tuple(self.order.split("-"))


class Stack(nn.Module):
    """`stages` x (linear, norm, activation in the configured order): (*, width) -> (*, width).

    The matrices start as `nn.Linear` does, uniform in +-1/sqrt(width). Every operation maps 0 to 0 and none has a bias,
    so a stack with one zero matrix is the zero function, and LoDA(+) is then exactly LoRA.
    Source: Figure 1b and 1e of the paper.
    """

    def __init__(self, config: StackConfig, width: int) -> None:
        super().__init__()
        self.config = config
        matrices = config.stages if "linear" in config.operations else 0
        self.linears = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(matrices))

    def forward(self, u: Tensor) -> Tensor:
        """Apply the stack to the last dimension: (*, width) -> (*, width)."""
        return apply_stack(self.config, u, list(self.linears))

    def macs(self) -> int:
        """Multiply-accumulates per token: width^2 for each matrix. Element-wise work is not counted (section 3.2)."""
        return sum(parameter.numel() for parameter in self.parameters())


def apply_stack(config: StackConfig, u: Tensor, linears: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Apply the operations of `config` to the last dimension of u, with one map of `linears` for each stage."""
    for stage in range(config.stages):
        for operation in config.operations:
            if operation == "linear":
                u = linears[stage](u)
            elif operation == "norm":
                u = F.layer_norm(u, u.shape[-1:], eps=config.eps)
            else:
                u = F.leaky_relu(u, config.negative_slope)
    return u
