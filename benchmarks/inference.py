"""Q, K, V of an adapted model, plain and after `loda.optimize_for_inference`, against the bare projection.

bare           the base's own projection
METHOD         the adapted projection as it is trained; `METHOD optimized` after loda.optimize_for_inference
csr KEPT       a sparse weight in compressed sparse rows, a layout that the library does not use: see its ratio
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import loda
from benchmarks.timing import Row, Step, compare, take_turns
from benchmarks.workload import SHAPES
from loda.adapters import LoDA, LoDAPlus, LoRA, NoAdapter
from loda.approx import LowRank, Sparse
from loda.errors import LodaError

Product = Callable[[Tensor], Tensor]
KEPT = (0.6, 0.5, 0.4, 0.05)


def run(options: argparse.Namespace) -> list[Row]:
    """Seconds of a product of `--tokens` rows."""
    width = SHAPES[options.model or "gpt2_medium"][1]
    base = one_layer(width, options.device)
    low_rank = LowRank(rank=min(300, width // 2))
    methods = {
        "LoRA": loda.LodaConfig(LoRA()),
        "LoDA": loda.LodaConfig(LoDA()),
        "LoDA+": loda.LodaConfig(LoDAPlus()),
        "low rank": loda.LodaConfig(NoAdapter(), low_rank),
        "R-LoDA+": loda.LodaConfig(LoDAPlus(), low_rank),
        "S-LoDA+": loda.LodaConfig(LoDAPlus(), Sparse(keep=0.4)),
    }
    products: dict[str, Product] = {"bare": projection(base)}
    for name, config in methods.items():
        products[name], products[f"{name} optimized"] = plain_and_optimized(base, config)
    weight, bias = projection(base).weight.detach(), projection(base).bias.detach()
    products |= {f"csr {kept:.0%}": compressed_rows(weight, bias, kept) for kept in KEPT}
    rows: list[Row] = []
    for tokens in options.tokens:
        x, runs = torch.randn(tokens, width, device=options.device), max(1, 200 // max(10, tokens))
        steps = {name: repeated(product, x, runs) for name, product in products.items()}
        timings = take_turns(steps, options.repeats or 5)
        rows += [{"tokens": tokens, **row} for row in compare(timings, "bare", units=runs)]
    return rows


def one_layer(width: int, device: str) -> GPT2LMHeadModel:
    """A GPT-2 of one layer with next to no vocabulary."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=width, n_head=2, vocab_size=8, n_positions=8, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval().to(device)  # type: ignore[no-any-return]


def projection(model: GPT2LMHeadModel) -> Any:
    return model.get_submodule("transformer.h.0.attn.c_attn")


@torch.no_grad()
def plain_and_optimized(base: GPT2LMHeadModel, config: loda.LodaConfig) -> tuple[nn.Module, nn.Module]:
    """The adapted projection of a copy of the base before and after optimisation, checked to compute the same."""
    model = loda.inject(copy.deepcopy(base), config).eval()
    for parameter in loda.trainable_parameters(model).values():
        nn.init.normal_(parameter, std=0.02)
    plain = projection(model)
    optimized = projection(loda.optimize_for_inference(copy.deepcopy(model)))
    x = torch.randn(20, base.config.n_embd, device=base.device)
    expected = plain(x)
    if (error := torch.dist(optimized(x), expected) / expected.norm()) > 1e-5:
        raise LodaError(f"the optimised projection differs by {error:.1e} of its output; one of the two is wrong")
    return plain, optimized


def compressed_rows(weight: Tensor, bias: Tensor, kept: float) -> Product:
    """h = x W + b with the largest entries of W in compressed sparse rows."""
    smallest = weight.abs().flatten().sort(descending=True).values[round(kept * weight.numel()) - 1]
    transposed = weight.where(weight.abs() >= smallest, 0.0).T.contiguous().to_sparse_csr()
    # As (W^T x^T)^T, because the sparse factor has to come first.
    return lambda x: (transposed @ x.T).T + bias


def repeated(product: Product, x: Tensor, runs: int) -> Step:
    @torch.inference_mode()
    def step() -> None:
        for _ in range(runs):
            product(x)

    return step
