"""The non-linear functions of LoDA: f1 between A and B, f2 after B (Eq. 1 and 2 of the paper).

Both are stacks of the same three operations on the last dimension:

    linear      u -> u W        W is r x r, no bias, trained
    norm        u -> (u - mean(u)) / sqrt(var(u) + eps)     LayerNorm without affine parameters
    activation  u -> LeakyReLU(u), negative slope 0.8
"""

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from loda.errors import LodaError
from loda.settings import settings

OPERATIONS = ("linear", "norm", "activation")


@settings
class StackConfig:
    """A stack of `stages` equal stages.

    The paper fixes the operations (two r x r matrices, slope 0.8, "layer-normalization is not trainable", section 3.1)
    but neither their order nor the composition of f2. Both are settings here.

    Attributes:
        stages: the number of stages.
        order: the operations of one stage in order, joined by "-".
        negative_slope: of LeakyReLU.
        eps: of the LayerNorm.

    Raises:
        LodaError: an unknown or repeated operation in `order`, stages < 1 or eps <= 0.
    """

    stages: int = Field(default=2, ge=1, description="for no f1 use adapter=lora")
    order: str = "linear-norm-activation"
    negative_slope: float = 0.8
    eps: float = Field(default=1e-5, gt=0, description="the default is 1e-5")

    def __post_init__(self) -> None:
        names = self.operations
        if len(set(names)) != len(names) or not set(names) <= set(OPERATIONS):
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
        """Multiply-accumulates per token: width^2 for each matrix. Element-wise work is not counted (section 3.2)."""
        return sum(parameter.numel() for parameter in self.parameters())
