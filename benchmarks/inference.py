"""Q, K, V of an adapted model at GPT2-medium's width, before and after `loda.optimize_for_inference`.

python -m benchmarks.inference
python -m benchmarks.inference --device cuda --tokens 1 10 256 4096

dense          the base's own projection; what the others are held against
NAME           the adapted projection as it is trained
NAME fast      the same after `loda.optimize_for_inference`
csr KEEP       a sparse weight in compressed rows, the layout that is not used: see its ratio to dense
"""

import torch
from torch import Tensor, nn

import loda
from benchmarks.report import Row, begin, finish, parser
from benchmarks.timing import Step, interleave
from loda.adapters import LoDA, LoDAPlus, LoRA, NoAdapter
from loda.approx import Dense, LowRank, Sparse
from loda.approx.dense import Frozen
from loda.columns import Columns
from loda.inference import optimized
from loda.interfaces import AdapterConfig, ApproxConfig

METHODS: dict[str, tuple[AdapterConfig, ApproxConfig]] = {
    "LoRA": (LoRA(), Dense()),
    "LoDA": (LoDA(), Dense()),
    "LoDA+": (LoDAPlus(), Dense()),
    "rank 300": (NoAdapter(), LowRank(rank=300)),
    "R-LoDA+": (LoDAPlus(), LowRank(rank=300)),
    "S-LoDA+": (LoDAPlus(), Sparse(keep=0.4)),
}
KEPT = (0.6, 0.5, 0.4, 0.05)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    options = parser("inference", "The projections of adapted models, before and after optimisation.")
    options.add_argument("--width", type=int, default=1024, help="d; GPT2-medium's unless given")
    options.add_argument("--tokens", type=int, nargs="+", default=[1, 10, 256], help="rows of a product")
    arguments = options.parse_args(argv)
    started = begin(arguments)
    torch.manual_seed(0)
    weight = torch.randn(arguments.width, 3 * arguments.width, device=arguments.device) * 0.02
    bias = torch.randn(3 * arguments.width, device=arguments.device) * 0.02
    modules = variants(weight, bias)
    lines, details = [], {}
    for tokens in arguments.tokens:
        x = torch.randn(tokens, arguments.width, device=arguments.device)
        runs = max(1, 200 // max(10, tokens))
        steps = {name: _repeated(module, x, runs) for name, module in modules.items()}
        timings = interleave(steps, max(arguments.repeats, 5))
        dense = timings["dense"].median
        for name, timing in timings.items():
            ratio = None if name == "dense" else dense / timing.median
            overhead = "" if name == "dense" else f"{timing.median / dense - 1:+.1%} of dense"
            lines.append(Row(f"{tokens} tokens, {name}", timing.median / runs, ratio, "faster than dense", overhead))
            details[f"{tokens}, {name}"] = [seconds / runs for seconds in timing.seconds]
    finish("inference", arguments, started, lines, details)


@torch.no_grad()
def variants(weight: Tensor, bias: Tensor) -> dict[str, nn.Module]:
    """Every projection that is timed, checked to compute what it should."""
    modules: dict[str, nn.Module] = {"dense": Frozen({"weight": weight}, bias)}
    width = weight.shape[0]
    slices = {part: Columns(i * width, (i + 1) * width) for i, part in enumerate("qkv")}
    x = torch.randn(20, width, device=weight.device)
    for name, (adapter, approx) in METHODS.items():
        tensors = approx.approximate(weight)
        projection = loda.AdaptedProjection(approx.build(tensors, bias), slices, width)
        adapter.attach(nn.Module(), {"projection": projection}, ("q", "v"))
        for parameter in projection.adapters.parameters():
            nn.init.normal_(parameter, std=0.02)
        fast = optimized(projection.eval())
        assert fast is not None
        torch.testing.assert_close(fast.eval()(x), projection(x), rtol=1e-5, atol=1e-5)
        modules |= {name: projection, f"{name} fast": fast}
    for keep in KEPT:
        modules[f"csr {keep:.0%}"] = CompressedRows(Sparse(keep=keep).approximate(weight)["weight"], bias)
    return modules


class CompressedRows(nn.Module):
    """h = x W + b with W in compressed sparse rows, (*, d_in) -> (*, d_out)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.transposed = weight.T.contiguous().to_sparse_csr()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """W^T x^T, because the sparse factor has to come first."""
        return (self.transposed @ x.T).T + self.bias


def _repeated(module: nn.Module, x: Tensor, runs: int) -> Step:
    @torch.inference_mode()
    def step() -> None:
        for _ in range(runs):
            module(x)

    return step


if __name__ == "__main__":
    main()
