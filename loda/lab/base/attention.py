"""Which bases have an attention that can be written out here: softmax(s q k^T) v over all earlier tokens."""

from transformers import PretrainedConfig, PreTrainedModel

PLAIN = ("gpt2", "gpt_neox", "opt", "phi3", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")
"""Architectures whose losses and texts are tested to be equal (tests/ecosystem/test_architectures.py)."""


def addition_to_attention(shape: PretrainedConfig, length: int) -> str | None:
    """What attention over `length` tokens may have beside the mask: a bias, a cap or a window; None if nothing."""
    window = getattr(shape, "sliding_window", None)
    if shape.model_type not in PLAIN:
        return f"the attention of {shape.model_type} is not tested to be softmax(q k) v alone"
    if window is not None and window < length:
        return f"the base attends to {window} tokens at most, fewer than {length}"
    return None


def can_replace_attention(model: PreTrainedModel) -> bool:
    """Whether `set_attn_implementation` has an effect: it has none on classes that are written in a notebook, say."""
    return model._can_set_attn_implementation()
