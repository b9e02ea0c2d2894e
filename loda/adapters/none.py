"""No adapter: the pre-trained model, or its approximation alone. Nothing is trained."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from loda.settings import settings


@settings
class NoAdapterConfig:
    """No adapter. There are no settings."""

    name: ClassVar[str] = "none"

    def check(self, model: nn.Module, adapted: Sequence[str]) -> None:
        """Accept every model."""

    def attach(self, model: nn.Module) -> None:
        """Add nothing."""
