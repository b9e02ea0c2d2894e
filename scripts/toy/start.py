"""Start values of the toy base: positions as sinusoids, and attention heads that can already look back and copy.

Writing a text from a record is copying: find the value that follows a key, then go on with the words that follow the
word just written. The heads that do this ("induction": a head that looks at the previous token feeds a head that looks
for the current one) take a small model most of its training to form. Here they start in place, and a few hundred steps
teach the rest; every weight is trained from there on. The idea is mimetic initialisation (Trockman and Kolter, 2023).
The width is divided: words live in the first `WORDS` dimensions, positions in the others.
"""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

WORDS = 96
LOOK_BACK = (1, 2)
"""First layer: head 0 looks one token back, head 1 two (a value stands two tokens after the word of its key)."""
COPYING_LAYERS = (1, 2)
"""Head 0 looks for the place after the current word, head 1 learns which key to look for; both copy what is there."""
WORD_SCALE, POSITION_SCALE, OTHER_SCALE = 0.05, 0.125, 0.03
LOOK_SHARPNESS, MATCH_SHARPNESS, CODE_SCALE, COPY_SCALE = 1.2, 1.7, 0.11, 0.3


@torch.no_grad()
def ready_to_copy(model: GPT2LMHeadModel) -> None:
    """Set the start values of a GPT-2 of at least three layers and two heads, in place."""
    pairs = (model.config.n_embd - WORDS) // 2
    frequencies = math.pi * 0.9 * (0.05 / (math.pi * 0.9)) ** (torch.arange(pairs) / (pairs - 1))
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and ".h." in name:
            into_residual = name.endswith("c_proj.weight")
            weight.normal_(std=OTHER_SCALE / (math.sqrt(2 * model.config.n_layer) if into_residual else 1))
    _embeddings(model, frequencies)
    codes = [_look_back(model, head, back, frequencies) for head, back in enumerate(LOOK_BACK)]
    for layer in COPYING_LAYERS:
        for head, (read, written) in enumerate(codes):
            _copy(model, layer, head, read, written)


def _embeddings(model: GPT2LMHeadModel, frequencies: Tensor) -> None:
    """Words in the first dimensions, sinusoids of the position in the others."""
    words, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    words.normal_(std=WORD_SCALE)
    words[:, WORDS:] *= 0.1
    angles = torch.arange(len(positions))[:, None] * frequencies
    positions.zero_()
    positions[:, WORDS:] = POSITION_SCALE * torch.cat([angles.sin(), angles.cos()], dim=1)


def _look_back(model: GPT2LMHeadModel, head: int, back: int, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Let a head of the first layer attend to the token `back` places before, and write a code of its word.

    Turning every pair (sin, cos) by -back times its frequency makes the query at p equal to the key at p - back.
    Returns how the code is read from a word (WORDS, size) and where it is written (width, size).
    """
    query, key, value, out = _head(model, 0, head)
    for part in (query, key, value):
        part.zero_()
    cos, sin = (back * frequencies).cos().diag(), (back * frequencies).sin().diag()
    rotation = torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])
    query[WORDS:, : len(rotation)] = LOOK_SHARPNESS * rotation
    key[WORDS:, : len(rotation)] = LOOK_SHARPNESS * torch.eye(len(rotation))
    size, width = out.shape
    read, written = _orthogonal(WORDS, size), _orthogonal(width, size)
    value[:WORDS] = read
    out[:] = CODE_SCALE * written.T
    return read, written


def _copy(model: GPT2LMHeadModel, layer: int, head: int, read: Tensor, written: Tensor) -> None:
    """Let a head look for tokens by the code that `_look_back` wrote there, and write their word as the next one.

    Head 0 looks for the code of the current word, which is induction; the query of head 1 starts at zero and has to
    learn which key it wants.
    """
    query, key, value, out = _head(model, layer, head)
    for part in (query, value, out):
        part.zero_()
    if head == 0:
        query[:WORDS] = MATCH_SHARPNESS * read
    key[:] = MATCH_SHARPNESS * written
    words = _orthogonal(WORDS, len(out))
    value[:WORDS] = words
    out[:, :WORDS] = COPY_SCALE * words.T


def _head(model: GPT2LMHeadModel, layer: int, head: int) -> list[Tensor]:
    """Query, key and value (width, size) and output (size, width) of one head, as views of the layer's weights."""
    attention: Any = model.transformer.h[layer].attn
    size = model.config.n_embd // model.config.n_head
    own = slice(head * size, (head + 1) * size)
    parts = attention.c_attn.weight.chunk(3, dim=1)
    return [*(part[:, own] for part in parts), attention.c_proj.weight[own]]


def _orthogonal(rows: int, columns: int) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(torch.randn(rows, columns))[0]
    return orthogonal
