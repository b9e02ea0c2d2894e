"""A tiny random model of every supported architecture, each made from its own transformers configuration."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import loda.peft
from tests.library.models import VOCABULARY, logits, perturb

D = 32
LOWRANK = {"name": "low_rank", "rank": 8}

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
_MIXTURE: dict[str, Any] = {
    **_LLAMA,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_HYBRID: dict[str, Any] = {
    **_HEADS,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

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
    "gemma3": {
        "text_config": {**_COMMON, **_LLAMA, **_WINDOW, **_HEADS, "query_pre_attn_scalar": 16},
        "vision_config": {**_WIDE, "intermediate_size": 48, "image_size": 8, "patch_size": 4},
        "mm_tokens_per_image": 4,
    },
    "mixtral": _MIXTURE,
    "qwen2_moe": _MIXTURE,
    "qwen3_moe": {**_MIXTURE, **_HEADS},
    "gpt_oss": {**_MIXTURE, **_HEADS},
    "qwen3_next": {**_MIXTURE, **_HYBRID},
    "qwen3_5_text": {**_LLAMA, **_HYBRID},
    "qwen3_5_moe_text": {**_MIXTURE, **_HYBRID},
    "lfm2": {**_LLAMA, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "phi": _LLAMA,
    "falcon": {**_WIDE, "new_decoder_architecture": True, "num_kv_heads": 2},
    "gpt_bigcode": _GPT,
    "starcoder2": _LLAMA,
    "olmo2": _LLAMA,
    "granite": _LLAMA,
    "cohere2": {**_LLAMA, **_WINDOW},
    "smollm3": {**_LLAMA, "no_rope_layers": [1, 0]},
    "glm4": {**_LLAMA, **_HEADS},
    "stablelm": _LLAMA,
    "mpt": {"d_model": D, "n_layers": 2, "n_heads": 4, "max_seq_len": 32},
    "persimmon": {**_WIDE, "intermediate_size": 48, "max_position_embeddings": 32},
    "xglm": {"d_model": D, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 32},
    "biogpt": {**_WIDE, "intermediate_size": 48, "max_position_embeddings": 32},
}


def tiny(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> PreTrainedModel:
    """Two layers, random weights large enough that the logits depend on every part; no dropout; eval mode."""
    common = {} if "text_config" in SETTINGS[kind] else _COMMON
    config = AutoConfig.for_model(kind, **common | SETTINGS[kind] | settings)
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


def config(**settings: object) -> loda.peft.LodaConfig:
    """Settings of an adapter in PEFT for a language model."""
    return loda.peft.LodaConfig(**{"task_type": "CAUSAL_LM", **settings})


def adapted(kind: str = "gpt2", seed: int = 1, tie_word_embeddings: bool = False, **settings: object) -> PeftModel:
    """A tiny model with an adapter in PEFT, as if it had been trained."""
    base = tiny(kind, tie_word_embeddings=True) if tie_word_embeddings else tiny(kind)
    return perturb(get_peft_model(base, config(**settings)), seed).eval()


def attentions(model: PreTrainedModel) -> list[dict[str, Tensor]]:
    """The queries, keys and values that meet in each attention of `model`, every one of which is given the same inputs.

    They are taken from the model's own code: the operands of the products with which it computes attention.
    """
    recorder = _Products()
    hooks = [
        hook
        for module in model.modules()
        if "Attention" in type(module).__name__
        for hook in (
            module.register_forward_pre_hook(recorder.enter, with_kwargs=True),
            module.register_forward_hook(recorder.leave),
        )
    ]
    with recorder:
        logits(model)
    for hook in hooks:
        hook.remove()
    found = iter(recorder.operands)
    return [dict(zip("qkv", three, strict=True)) for three in zip(found, found, found, strict=True)]


class _Products(TorchFunctionMode):
    """Records q, k, v of softmax(q k^T) v, computed in one call or in two products of batches of matrices."""

    two = ("matmul", "__matmul__", "bmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.operands = 0, list[Tensor]()

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Replace the inputs of an attention by the same random ones everywhere."""
        self.depth += 1
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.dtype)
        return (args, kwargs | {"hidden_states": x}) if "hidden_states" in kwargs else ((x, *args[1:]), kwargs)

    def leave(self, *_: Any) -> None:
        """Stop recording."""
        self.depth -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        if self.depth and func is F.scaled_dot_product_attention:
            self.operands += [operand.clone() for operand in given[:3]]
        elif self.depth and func.__name__ in self.two and min(operand.ndim for operand in given) > 2:
            # The first product is q k^T, the second has v on its right.
            self.operands += [operand.clone() for operand in given[-2 + len(self.operands) % 3 // 2 :]]
        return func(*args, **(kwargs or {}))


def changed_parts(base: PreTrainedModel, model: PreTrainedModel) -> list[set[str]]:
    """Which of q, k and v of each attention are other than the base's, everywhere; the others are so bit for bit."""
    changed = []
    for before, after in zip(attentions(base), attentions(model), strict=True):
        share = {name: (before[name] != after[name]).double().mean().item() for name in "qkv"}
        assert all(value == 0 or value > 0.9 for value in share.values()), share
        changed.append({name for name, value in share.items() if value})
    return changed
