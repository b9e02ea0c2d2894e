"""What is timed: models of known shapes with random weights, and the rows of E2E or rows of like lengths."""

import os
import random
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from loda.lab.base.files import SHIPPED
from loda.lab.base.model import END_OF_TEXT, load_base, load_tokenizer, token_id
from loda.lab.config import compose
from loda.lab.data import load, load_pairs
from loda.lab.training.examples import Row, encode, prompt

VOCABULARY = 50257
SHAPES = {  # layers, width, heads
    "gpt2_tiny": (2, 64, 2),  # to try a script
    "gpt2_mini": (4, 256, 4),
    "gpt2_small": (12, 768, 12),
    "gpt2_medium": (24, 1024, 16),
    "gpt2_large": (36, 1280, 20),
}
MAX_LENGTH = 512


def random_gpt2(shape: str, device: str) -> GPT2LMHeadModel:
    """GPT-2 with random weights, float32, without dropout of its own, always the same for a shape."""
    layers, width, heads = SHAPES[shape]
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=heads, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, pad_token_id=None
    )
    model: GPT2LMHeadModel = GPT2LMHeadModel(config).eval().to(device)
    return model


def reference_data() -> Path | None:
    """The folder with the original E2E files and GPT-2's tokenizer, where it is: `LODA_SHARED` or ../shared."""
    folder = Path(os.environ.get("LODA_SHARED", "../shared")) / "data"
    return folder if (folder / "e2e").is_dir() and (folder / "gpt2_tokenizer").is_dir() else None


def training_rows(count: int) -> tuple[list[Row], str]:
    """Rows of E2E's training set, or made ones of like lengths, and which of the two.

    The made ones have 22 +- 6 tokens of context and 28 +- 9 of completion, those of E2E 26 and 27 on average.
    """
    data = reference_data()
    if data is not None:
        tokenizer = load_tokenizer(data / "gpt2_tokenizer")
        pairs = load_pairs("e2e", "train", data / "e2e")
        drawn = random.Random(0).sample(pairs, min(count, len(pairs)))
        return [encode(tokenizer, pair, MAX_LENGTH) for pair in drawn], "E2E training rows"
    generator = random.Random(0)
    rows = []
    for _ in range(count):
        given, counted = (max(4, round(generator.gauss(*shape))) for shape in ((26, 6), (27, 9)))
        rows.append(Row([generator.randrange(VOCABULARY) for _ in range(given + counted)], given))
    return rows, "made rows of E2E's lengths"


def toy_base() -> tuple[PreTrainedModel, int]:
    """The small base that comes with the project, and its end-of-text token."""
    return load_base(compose(["model=toy"]).model, SHIPPED), token_id(load_tokenizer(SHIPPED), END_OF_TEXT)


def prompts(count: int, model: str = "gpt2_small") -> tuple[list[list[int]], str]:
    """Distinct contexts of E2E's test set as prompts of `model`, or made ones of like lengths, and which of the two."""
    data = reference_data()
    if data is not None:
        tokenizer = load_tokenizer(SHIPPED if model == "toy" else data / "gpt2_tokenizer")
        examples = load("e2e", "test", data / "e2e")
        drawn = random.Random(0).sample(examples, min(count, len(examples)))
        return [prompt(tokenizer, example.context) for example in drawn], "contexts of E2E's test set"
    generator = random.Random(0)
    lengths = [max(4, round(generator.gauss(33, 7))) for _ in range(count)]
    vocabulary = load_tokenizer(SHIPPED).get_vocab_size() if model == "toy" else VOCABULARY
    return [[generator.randrange(vocabulary) for _ in range(n)] for n in lengths], "made contexts of E2E's lengths"
