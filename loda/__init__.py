"""LoDA: low-dimensional, non-linear adaptation of language models (Liu et al., 2025), and LoRA as its special case.

    import loda
    from loda.adapters import LoDAPlus
    from loda.approx import LowRank
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("openai-community/gpt2-medium", dtype="float32")
    config = loda.LodaConfig(adapter=LoDAPlus(r=4), approx=LowRank(rank=300))      # R-LoDA+
    model = loda.inject(model, config)           # in place; only the adapters on W_q and W_v train
    print(loda.cost(model))                      # 394,752 trainable parameters, 30.1M MACs per token for Q, K, V

    ...                                          # any training loop over loda.trainable_parameters(model)

    loda.save_pretrained(model, "my-adapter")    # adapter_config.json + adapter_model.safetensors
    model = loda.from_pretrained(fresh_base, "my-adapter")    # strict: right base, every tensor, or an error

Without `approx` the pre-trained projection stays as it is (LoDA, LoDA+, LoRA); `loda.merge(model)` folds a LoRA into
the weights, and refuses for the non-linear adapters, which have no equivalent weight.
"""

from loda.checkpoint import from_pretrained, save_pretrained
from loda.config import LodaConfig
from loda.cost import cost
from loda.inject import inject, merge, trainable_parameters, unload
from loda.projection import AdaptedProjection
from loda.protocols import Adapter

__all__ = [
    "LodaConfig",
    "inject",
    "unload",
    "merge",
    "save_pretrained",
    "from_pretrained",
    "trainable_parameters",
    "cost",
    "AdaptedProjection",
    "Adapter",
]
