"""What is timed: models of known shapes with random weights, and E2E's texts or made ones of like lengths."""

import os
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from loda.lab.base.files import SHIPPED
from loda.lab.data import load
from loda.lab.training.examples import Example

VOCABULARY = 50257
END = 50256
SHAPES = {  # layers, width, heads
    "gpt2_tiny": (2, 64, 2),  # to try a benchmark
    "gpt2_mini": (4, 256, 4),
    "gpt2_small": (12, 768, 12),
    "gpt2_medium": (24, 1024, 16),
    "gpt2_large": (36, 1280, 20),
}


def build_model(shape: str, device: str) -> GPT2LMHeadModel:
    """GPT-2 in float32 without dropout: the toy base, or random weights that are always the same for a shape."""
    if shape == "toy":
        toy: GPT2LMHeadModel = GPT2LMHeadModel.from_pretrained(SHIPPED, dtype=torch.float32)
        return toy.eval().to(device)  # type: ignore[no-any-return]
    layers, width, heads = SHAPES[shape]
    torch.manual_seed(0)
    # A random model repeats its last token, the separator of a prompt; a text must not end for that.
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=heads, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).eval().to(device)  # type: ignore[no-any-return]


def reference_data() -> Path | None:
    """The folder with the original E2E files and GPT-2's tokenizer, where it is: `LODA_SHARED` or ../shared."""
    folder = Path(os.environ.get("LODA_SHARED", "../shared")) / "data"
    return folder if (folder / "e2e").is_dir() and (folder / "gpt2_tokenizer").is_dir() else None


def training_examples(count: int) -> list[Example]:
    """Examples of E2E's training set in random order, or made ones of like lengths: 26 and 27 tokens on average."""
    generator = random.Random(0)
    data = reference_data()
    if data is None:
        lengths = [(_length(generator, 26, 6), _length(generator, 27, 9)) for _ in range(count)]
        return [Example(_random_ids(generator, given + told, VOCABULARY), given) for given, told in lengths]
    tokenizer = Tokenizer.from_file(str(data / "gpt2_tokenizer" / "tokenizer.json"))
    examples = []
    for instance in generator.sample(load("e2e", "train", data / "e2e"), count):
        context = [*tokenizer.encode(instance.context).ids, END]
        examples.append(Example([*context, *tokenizer.encode(f" {instance.references[0]}").ids, END], len(context)))
    return examples


def prompts(count: int, shape: str) -> list[list[int]]:
    """Distinct contexts of E2E's test set as prompts, or made ones of like lengths."""
    generator = random.Random(0)
    data = reference_data()
    vocabulary, end = (VOCABULARY, END) if shape != "toy" else (1280, 0)
    if data is None:
        return [_random_ids(generator, _length(generator, 33, 7), vocabulary) for _ in range(count)]
    folder = SHIPPED if shape == "toy" else data / "gpt2_tokenizer"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    instances = load("e2e", "test", data / "e2e")
    return [[*tokenizer.encode(i.context).ids, end] for i in generator.sample(instances, min(count, len(instances)))]


def _length(generator: random.Random, mean: float, deviation: float) -> int:
    return max(4, round(generator.gauss(mean, deviation)))


def _random_ids(generator: random.Random, length: int, vocabulary: int) -> list[int]:
    return [generator.randrange(vocabulary) for _ in range(length)]
