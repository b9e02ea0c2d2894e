"""A tiny GPT-2 and what the tests do with it: look at its logits, give its adapters values, watch it for changes."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import loda
from loda.config import known

VOCABULARY = 64
TOKENS = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))

# Every adapter and approximation with its default settings; new files in loda/adapters and loda/approx are found.
ADAPTERS = {name: config() for name, config in known("adapter").items()}
APPROXIMATIONS = {name: config() for name, config in known("approx").items()}

# Wide enough for the default settings of every approximation: the largest is rank 300.
WIDE = 320


def tiny_gpt2(width: int = 32, layers: int = 2, seed: int = 0) -> GPT2LMHeadModel:
    """Random weights and biases, large enough to make the logits depend on every part; no dropout; eval mode."""
    settings = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=32,
        n_embd=width,
        n_layer=layers,
        n_head=4,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: GPT2LMHeadModel = GPT2LMHeadModel(settings)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=width**-0.5)
    model.eval()
    return model


def wide_gpt2() -> GPT2LMHeadModel:
    """One layer, on which every approximation fits with its default settings."""
    return tiny_gpt2(width=WIDE, layers=1)


def logits(model: nn.Module) -> Tensor:
    """Logits of TOKENS."""
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
    return found


def perturb(model: nn.Module, seed: int = 1) -> nn.Module:
    """Give what trains random values, as if it had been trained; also where PEFT added it."""
    give_values(loda.trainable_parameters(model), seed)
    return model


def give_values(parameters: Mapping[str, nn.Parameter], seed: int = 1) -> None:
    """Random values, always the same."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def train(model: nn.Module, steps: int = 3) -> None:
    """A few steps on TOKENS; the model is left in eval mode."""
    optimizer = torch.optim.AdamW(loda.trainable_parameters(model).values(), lr=0.01)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    model.eval()


def assert_gradients_reach_what_trains(model: nn.Module) -> None:
    """Every trained parameter and no other gets a gradient, which is not zero."""
    trained = loda.trainable_parameters(model)
    assert trained
    model(TOKENS, labels=TOKENS).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        assert name not in trained or parameter.grad.any(), name


def assert_a_cache_changes_nothing(model: nn.Module, beams: int = 1) -> None:
    """The tokens that are generated with a cache are those without one."""
    settings = {"max_new_tokens": 5, "num_beams": beams, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(TOKENS)
    found = [model.generate(input_ids=TOKENS, attention_mask=mask, use_cache=use, **settings) for use in (True, False)]
    assert torch.equal(*found)


def weight_of(base: nn.Module) -> Tensor:
    """The matrix (d_in, d_out) that a base projection multiplies by."""
    if base.bias is not None:
        base = copy.deepcopy(base)
        base.bias = None
    return base(torch.eye(base.weight.shape[0], dtype=next(base.parameters()).dtype)).detach()


def state(model: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """A copy of every parameter and whether it requires gradients."""
    return {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}


def same_state(a: dict[str, tuple[Tensor, bool]], b: dict[str, tuple[Tensor, bool]]) -> bool:
    """Whether names, values (bit for bit) and gradient flags agree."""
    return a.keys() == b.keys() and all(torch.equal(a[n][0], b[n][0]) and a[n][1] == b[n][1] for n in a)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Assert that the model is the same after the block: modules, parameters, flags, logits."""
    modules, before, outputs = list(model.modules()), state(model), logits(model)
    yield
    assert list(model.modules()) == modules
    assert same_state(before, state(model))
    assert torch.equal(outputs, logits(model))
