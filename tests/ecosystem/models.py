"""A tiny random model of every supported architecture, each made from its own transformers configuration."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import loda
from tests.library.models import VOCABULARY, give_values

D = 32

# What is the same for all, by the names that every configuration understands.
_COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_GPT: dict[str, Any] = {"n_embd": D, "n_layer": 2, "n_head": 4, "n_positions": 32}
_WIDE: dict[str, Any] = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA: dict[str, Any] = {**_WIDE, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 32}
# Shorter than the tests' texts, so that it hides something.
_WINDOW: dict[str, Any] = {"sliding_window": 4}
_QWEN: dict[str, Any] = {**_LLAMA, **_WINDOW, "use_sliding_window": True, "max_window_layers": 1}
# Heads that are together wider than the model.
_HEADS: dict[str, Any] = {"head_dim": 16}

SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gpt_neo": {
        "hidden_size": D,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 32,
        "window_size": 4,
    },
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neox": {**_WIDE, "intermediate_size": 48, "max_position_embeddings": 32},
    "opt": {**_WIDE, "ffn_dim": 48, "max_position_embeddings": 32, "word_embed_proj_dim": D},
    "bloom": {"hidden_size": D, "n_layer": 2, "n_head": 4},
    "phi3": {**_LLAMA, **_WINDOW},
    "llama": _LLAMA,
    "mistral": {**_LLAMA, **_WINDOW},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, **_HEADS},
    "gemma": {**_LLAMA, **_HEADS},
    "gemma2": {**_LLAMA, **_WINDOW, **_HEADS, "query_pre_attn_scalar": 16},
    "gemma3_text": {**_LLAMA, **_WINDOW, **_HEADS, "query_pre_attn_scalar": 16},
}


def tiny(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> PreTrainedModel:
    """Two layers, random weights large enough that the logits depend on every part; no dropout; eval mode."""
    config = AutoConfig.for_model(kind, **_COMMON | SETTINGS[kind] | settings)
    for name in vars(config):
        if "drop" in name or name.endswith("pdrop"):
            setattr(config, name, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=D**-0.5)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    model.eval()
    return model


def perturb(model: nn.Module, seed: int = 1) -> nn.Module:
    """Give what trains random values, as if it had been trained; also where PEFT added it."""
    give_values(loda.trainable_parameters(model), seed)
    return model


def parts(model: PreTrainedModel, kind: str, x: Tensor) -> list[dict[str, Tensor]]:
    """What q, k and v of each block compute for x, cut out of the projections by the models' own rules.

    Written anew from the attention code of each model, not from `loda.architectures`.
    """
    blocks = []
    for block in model.get_submodule(BLOCKS[kind]).children():
        modules = {name.rpartition(".")[2]: module for name, module in block.named_modules()}
        heads, width = model.config.num_attention_heads, model.config.hidden_size
        if kind == "gpt2":  # GPT2Attention: c_attn(x).split(width)
            values = modules["c_attn"](x).split(width, dim=-1)
        elif kind in ("gpt_neox", "bloom"):  # view(heads, 3 * head_dim).chunk(3); view(heads, 3, head_dim)
            fused = modules["query_key_value"](x).view(*x.shape[:-1], heads, 3, width // heads)
            values = fused.unbind(-2)
        elif kind == "phi3":  # query_pos, then num_key_value_heads * head_dim twice
            few = model.config.num_key_value_heads * width // heads
            values = modules["qkv_proj"](x).split([width, few, few], dim=-1)
        else:
            values = [modules[f"{name}_proj"](x) for name in "qkv"]
        blocks.append(dict(zip("qkv", values, strict=True)))
    return blocks


def changed_parts(kind: str, model: PreTrainedModel) -> list[set[str]]:
    """Which of q, k, v compute other numbers than the base's, bit for bit, in each block."""
    x = torch.randn(2, 5, D, dtype=model.dtype)
    pairs = zip(parts(tiny(kind, dtype=model.dtype), kind, x), parts(model, kind, x), strict=True)
    return [{name for name in "qkv" if not torch.equal(base[name], found[name])} for base, found in pairs]


BLOCKS = {
    "gpt2": "transformer.h",
    "gpt_neo": "transformer.h",
    "gptj": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "bloom": "transformer.h",
} | dict.fromkeys(("phi3", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), "model.layers")
