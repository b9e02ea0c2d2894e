"""The reference's tiny GPT-2 and its adapter, whose numbers lie in tests/parity/data."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import loda
from loda.adapters import LoRA
from loda.projection import projections

DATA = Path(__file__).resolve().parent / "data"


def tiny_gpt2() -> GPT2LMHeadModel:
    """The model of all reference runs, in evaluation mode."""
    model = GPT2LMHeadModel(GPT2Config(**json.loads((DATA / "tiny_gpt2_config.json").read_text())))
    model.load_state_dict(load_file(DATA / "tiny_gpt2.safetensors"))
    return model.eval()


def lora_tensors() -> dict[str, Tensor]:
    """The adapter of the reference runs, in the reference's names."""
    return load_file(DATA / "lora_init_nonzeroB.safetensors")


def with_lora(model: GPT2LMHeadModel, tensors: Mapping[str, Tensor], dropout: float = 0.0) -> GPT2LMHeadModel:
    """`model` with a LoRA of rank 4 and alpha 32 that holds the reference's `tensors`."""
    loda.inject(model, loda.LodaConfig(LoRA(r=4, alpha=32, dropout=dropout)))
    for name, projection in projections(model).items():
        copy_lora(projection, tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"])
    return model


def in_layout(model: GPT2LMHeadModel, value: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A value of each adapter tensor in the reference's names and layout: lora_A (2r, d), lora_B (2d, r)."""
    found = {}
    for name, projection in projections(model).items():
        for side in "AB":
            values = [value(getattr(projection.adapters[part], side)).T for part in ("q", "v")]
            found[f"{name}.lora_{side}"] = torch.cat(values)
    return found


@torch.no_grad()
def copy_lora(projection: loda.AdaptedProjection, lora_a: Tensor, lora_b: Tensor) -> None:
    """Copy `lora_A` (2r, d) and `lora_B` (2d, r): the first half belongs to q, the second to v, both transposed."""
    halves = zip(("q", "v"), lora_a.chunk(2), lora_b.chunk(2), strict=True)
    for part, a, b in halves:
        projection.adapters[part].A.copy_(a.T)
        projection.adapters[part].B.copy_(b.T)
