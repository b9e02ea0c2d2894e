"""What is timed: models of known shapes with random weights, and random rows of the lengths of E2E's."""

import random

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from loda.lab.training.examples import Example

VOCABULARY = 50257
SHAPES = {  # layers, width, heads
    "gpt2_tiny": (2, 64, 2),  # to try a benchmark
    "gpt2_mini": (4, 256, 4),
    "gpt2_small": (12, 768, 12),
    "gpt2_medium": (24, 1024, 16),
    "gpt2_large": (36, 1280, 20),
}


def build_model(shape: str, device: str) -> GPT2LMHeadModel:
    """GPT-2 in float32 without dropout, with the same random weights on every call."""
    layers, width, heads = SHAPES[shape]
    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)
    return GPT2LMHeadModel(config).eval().to(device)  # type: ignore[no-any-return]


def training_examples(count: int, vocabulary: int) -> list[Example]:
    """Examples of the lengths of E2E's training set: contexts of 26 tokens and texts of 27 on average."""
    generator = random.Random(0)
    lengths = [(_length(generator, 26, 6), _length(generator, 27, 9)) for _ in range(count)]
    return [Example(_random_ids(generator, given + told, vocabulary), given) for given, told in lengths]


def prompts(count: int) -> list[list[int]]:
    """Prompts of the lengths of E2E's test contexts, 33 tokens on average."""
    generator = random.Random(0)
    return [_random_ids(generator, _length(generator, 33, 7), VOCABULARY) for _ in range(count)]


def _length(generator: random.Random, mean: float, deviation: float) -> int:
    return max(4, round(generator.gauss(mean, deviation)))


def _random_ids(generator: random.Random, length: int, vocabulary: int) -> list[int]:
    return [generator.randrange(vocabulary) for _ in range(length)]
