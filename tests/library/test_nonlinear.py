"""Equations 1 and 2 of the paper against code that writes them out, and LoRA as their special case."""

import itertools
import math

import pytest
import torch

from loda.adapters import LoDA, LoDAPlus, LoRA
from loda.adapters.nonlinear import OPERATIONS, StackConfig
from loda.errors import LodaError

Vector = list[float]
Matrix = list[Vector]


def times(u: Vector, w: Matrix) -> Vector:
    return [sum(u[i] * w[i][j] for i in range(len(u))) for j in range(len(w[0]))]


def plus(u: Vector, v: Vector) -> Vector:
    return [a + b for a, b in zip(u, v, strict=True)]


def apply(operation: str, u: Vector, w: Matrix, slope: float) -> Vector:
    if operation == "linear":
        return times(u, w)
    if operation == "norm":
        mean = sum(u) / len(u)
        variance = sum((a - mean) ** 2 for a in u) / len(u)
        return [(a - mean) / math.sqrt(variance + 1e-5) for a in u]
    return [a if a >= 0 else slope * a for a in u]


def stack(u: Vector, order: str, matrices: list[Matrix], slope: float = 0.8) -> Vector:
    """f1 or f2 of the paper, one number at a time; a stage without a matrix gets an empty one."""
    for w in matrices:
        for operation in order.split("-"):
            u = apply(operation, u, w, slope)
    return u


def filled(config, d_in: int, d_out: int) -> torch.nn.Module:
    adapter = config.build(d_in, d_out).double()
    generator = torch.Generator().manual_seed(d_in)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return adapter


def parts(adapter: torch.nn.Module) -> tuple[Matrix, Matrix, list[Matrix]]:
    """A (d, r), B (r, d) and the r x r matrices in the row-vector convention u W."""
    return adapter.A.tolist(), adapter.B.tolist(), [linear.weight.T.tolist() for linear in adapter.f1.linears]


ORDERS = ["-".join(p) for n in (1, 2, 3) for p in itertools.permutations(OPERATIONS, n) if "linear" in p]
F2 = [StackConfig(n, order) for n, order in enumerate(("activation", "norm", "norm-activation", "activation-norm"), 1)]
X = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_defaults_are_those_of_the_paper():
    # Section 3.1: two r x r matrices, slope 0.8; r = 4 and LoRA's alpha = 32 (Table 11 of Hu et al., 2022).
    for config in (LoDA(), LoDAPlus()):
        assert (config.r, config.alpha) == (4, 32)
        assert (config.f1.stages, config.f1.negative_slope) == (2, 0.8)
    assert LoDAPlus().f2.negative_slope == 0.8


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("f2", [None, *F2], ids=repr)
def test_loda_is_equation_1_and_loda_plus_is_equation_2(order, stages, f2):
    slope = {1: 0.8, 2: 0.0, 3: 0.2}[stages]
    f1 = StackConfig(stages, order, slope)
    adapter = filled(LoDAPlus(r=3, alpha=6, f1=f1, f2=f2) if f2 else LoDA(r=3, alpha=6, f1=f1), 5, 7)
    a, b, matrices = parts(adapter)
    assert len(matrices) == stages
    for x, found in zip(X.tolist(), adapter(X).tolist(), strict=True):
        u = times(x, a)
        bent = times(stack(u, order, matrices, slope), b)  # f1(x A) B
        delta = plus(times(u, b), stack(bent, f2.order, [[]] * f2.stages) if f2 else bent)
        assert found == pytest.approx([6 / 3 * h for h in delta], rel=1e-10)


@pytest.mark.parametrize("config", [LoDA(), LoDAPlus(), LoDAPlus(f2=StackConfig(1, "norm-activation"))])
@pytest.mark.parametrize("zero", [0, 1])
def test_lora_is_the_case_of_one_hidden_matrix_zero(config, zero):
    # Bit-equal, in float32 and in its gradients too: f1 is then exactly zero, and adding zero changes no number.
    adapter, lora = filled(config, 64, 64).float(), LoRA().build(64, 64)
    lora.load_state_dict({"A": adapter.A, "B": adapter.B})
    torch.nn.init.zeros_(adapter.f1.linears[zero].weight)
    x = torch.randn(10, 64)
    assert torch.equal(adapter(x), lora(x))
    if config.__class__ is LoDA:
        adapter(x).square().sum().backward()
        lora(x).square().sum().backward()
        assert torch.equal(adapter.B.grad, lora.B.grad)


def test_lora_is_the_case_of_a_linear_f1():
    # x A B + x A W1 W2 B = x A (I + W1 W2) B, section 2. Equal up to rounding: the products are grouped otherwise.
    adapter = filled(LoDA(f1=StackConfig(order="linear")), 16, 16)
    first, second = (linear.weight.T for linear in adapter.f1.linears)
    lora = LoRA().build(16, 16).double()
    lora.load_state_dict({"A": adapter.A, "B": (torch.eye(4) + first @ second) @ adapter.B})
    x = torch.randn(10, 16, dtype=torch.float64)
    torch.testing.assert_close(adapter(x), lora(x), rtol=1e-11, atol=1e-11)


def test_the_image_of_loda_is_a_subspace_and_that_of_loda_plus_is_not():
    # Section 2.1: the image of LoDA lies in the range of B, of dimension r; that of LoDA+ leaves it.
    x = torch.randn(200, 16, dtype=torch.float64)
    assert torch.linalg.matrix_rank(filled(LoDA(), 16, 16)(x)) == 4
    assert torch.linalg.matrix_rank(filled(LoDAPlus(), 16, 16)(x)) > 4


@pytest.mark.parametrize(
    "settings", [{"order": ""}, {"order": "relu"}, {"order": "linear-linear"}, {"stages": 0}, {"eps": 0.0}], ids=str
)
def test_a_stack_that_is_none_is_refused(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(LodaError, match=f"{name}={value!r}"):
        StackConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"r": 0}, r"r=0: input should be greater than or equal to 1 \(the paper uses r=4\)"),
        ({"alpha": 0}, "alpha=0: input should be greater than 0"),
        ({"alpha": float("inf")}, "alpha=inf: input should be a finite number"),
        ({"dropout": 1.0}, "dropout=1.0: input should be less than 1"),
        ({"init": "zeros"}, "init='zeros': input should be 'independent' or 'reference'"),
        ({"r": 1}, "r=1 .* LayerNorm of a single number is zero"),
        ({"f1": StackConfig(order="norm-activation")}, "f1.order='norm-activation' has no linear"),
        ({"f2": StackConfig(order="linear")}, "f2.order='linear' has a linear operation"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings, rule):
    with pytest.raises(LodaError, match=rule):
        LoDAPlus(**settings)


def test_a_bottleneck_of_one_works_without_a_norm():
    adapter = filled(LoDA(r=1, f1=StackConfig(order="linear-activation")), 8, 8)
    assert adapter.f1(torch.randn(3, 1, dtype=torch.float64)).any()
