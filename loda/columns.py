"""Which columns of a projection make one slice, q, k or v."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """The columns start .. stop - 1 of each of `runs` equal parts of a projection's output.

    [W_q, W_k, W_v] side by side is one run for each slice. GPT-NeoX and BLOOM go head by head,
    [q_1, k_1, v_1, q_2, k_2, v_2, ...]: as many runs as heads, and a run is one head's share.
    """

    start: int
    stop: int
    runs: int = 1

    @property
    def width(self) -> int:
        """How many columns."""
        return self.runs * (self.stop - self.start)

    def of(self, h: Tensor) -> Tensor:
        """A view of these columns: (*, d_out) -> (*, width), for several runs (*, runs, width / runs)."""
        return self._by_run(h)[..., self.start : self.stop]

    def add_(self, h: Tensor, update: Tensor) -> None:
        """h[slice] += update, in place: h (*, d_out), update (*, width)."""
        self.of(h).add_(self._by_run(update))

    def _by_run(self, h: Tensor) -> Tensor:
        return h if self.runs == 1 else h.unflatten(-1, (self.runs, -1))
