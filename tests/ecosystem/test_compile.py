"""torch.compile and torch.export take an adapted model as one graph, also after optimize_for_inference.

The backend `aot_eager` traces as `inductor` does, which is what refuses writes to views, and generates no code.
"""

from itertools import product

import pytest
import torch

import loda
from loda.approx import Dense, LowRank, Sparse
from loda.projection import projections
from tests.ecosystem.models import tiny
from tests.library.models import ADAPTERS, TOKENS, logits, perturb

APPROX = {"dense": Dense(), "low_rank": LowRank(rank=8), "sparse": Sparse(keep=0.5)}
BESIDE = ("full_rank", "lora", "loda", "loda_plus")  # adapters beside a projection
# q, k and v side by side, in three modules, head by head. Where they lie is one question, what is computed another.
CELLS = [*product(["gpt2"], BESIDE, APPROX), *product(["llama", "gpt_neox"], ["loda_plus"], APPROX)]


def adapted(kind="gpt2", adapter="loda_plus", approx="dense", **sizes):
    return perturb(loda.inject(tiny(kind, **sizes), loda.LodaConfig(ADAPTERS[adapter], APPROX[approx]))).eval()


def compiled(module, backend="aot_eager"):
    torch._dynamo.reset()  # otherwise the graphs of earlier tests count as recompilations
    return torch.compile(module, fullgraph=True, backend=backend)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("kind", "adapter", "approx", "backend"),
    [(*cell, "aot_eager") for cell in CELLS] + [("gpt2", "loda_plus", "dense", "inductor")],
)
def test_projections_plain_and_optimised_are_one_graph(kind, adapter, approx, backend):
    model = adapted(kind, adapter, approx)
    name, plain = next(iter(projections(model).items()))
    fast = loda.optimize_for_inference(model).get_submodule(name)
    x = torch.randn(2, 5, plain.d_in)
    for found in compiled(lambda x: (plain(x), fast(x)), backend)(x):
        torch.testing.assert_close(found, plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapter", ["lin", "prefix", "loda_plus"])  # hooks on blocks, a hook on the cache, none
def test_a_whole_model_is_one_graph(adapter):
    model = adapted(adapter=adapter, n_layer=1)
    torch.testing.assert_close(compiled(model)(TOKENS).logits, logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("optimised", [False, True], ids=["plain", "optimised"])
def test_a_model_is_exported(optimised):
    model = adapted(n_layer=1)
    expected = logits(model)
    model = loda.optimize_for_inference(model) if optimised else model
    model.config.use_cache = False
    exported = torch.export.export(model, (TOKENS,)).module()
    torch.testing.assert_close(exported(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)
