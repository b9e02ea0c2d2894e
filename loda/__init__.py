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
    base = loda.unload(model)                    # the base again, bit for bit

    model = loda.optimize_for_inference(model.eval())    # the same outputs, faster; it cannot be undone

Without `approx` the pre-trained projection stays as it is (LoDA, LoDA+, LoRA). `loda.merge(model)` adds a LoRA to the
weights. It refuses non-linear adapters, because no weight equals them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loda.calibration import second_moments
    from loda.checkpoint import from_pretrained, save_pretrained
    from loda.config import LodaConfig
    from loda.costs import cost
    from loda.formats import from_peft, to_peft
    from loda.inference import optimize_for_inference
    from loda.interfaces import Adapter
    from loda.linearization import linearize
    from loda.merging import merge
    from loda.model import approximate, inject, trainable_parameters, unload
    from loda.planning import plan
    from loda.projection import AdaptedProjection

__version__ = "0.2.0"
__all__ = [
    "LodaConfig",
    "inject",
    "approximate",
    "second_moments",
    "plan",
    "unload",
    "merge",
    "linearize",
    "save_pretrained",
    "from_pretrained",
    "to_peft",
    "from_peft",
    "optimize_for_inference",
    "trainable_parameters",
    "cost",
    "AdaptedProjection",
    "Adapter",
]

_HOMES = {
    "loda.calibration": ("second_moments",),
    "loda.checkpoint": ("from_pretrained", "save_pretrained"),
    "loda.config": ("LodaConfig",),
    "loda.costs": ("cost",),
    "loda.formats": ("from_peft", "to_peft"),
    "loda.inference": ("optimize_for_inference",),
    "loda.interfaces": ("Adapter",),
    "loda.linearization": ("linearize",),
    "loda.merging": ("merge",),
    "loda.model": ("approximate", "inject", "trainable_parameters", "unload"),
    "loda.planning": ("plan",),
    "loda.projection": ("AdaptedProjection",),
}


def __getattr__(name: str) -> Any:
    """Import a public name, and torch with it, when it is first used: `import loda` stays fast."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'loda' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *__all__]
