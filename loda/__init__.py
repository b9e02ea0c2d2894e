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

    model = loda.optimize_for_inference(model.eval())    # the same outputs, faster; for decoding, at the end

Without `approx` the pre-trained projection stays as it is (LoDA, LoDA+, LoRA); `loda.merge(model)` folds a LoRA into
the weights, and refuses for the non-linear adapters, which have no equivalent weight.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loda.checkpoint import from_pretrained, save_pretrained
    from loda.config import LodaConfig
    from loda.cost import cost
    from loda.inference import optimize_for_inference
    from loda.interfaces import Adapter
    from loda.model import inject, merge, trainable_parameters, unload
    from loda.projection import AdaptedProjection

__all__ = [
    "LodaConfig",
    "inject",
    "unload",
    "merge",
    "save_pretrained",
    "from_pretrained",
    "optimize_for_inference",
    "trainable_parameters",
    "cost",
    "AdaptedProjection",
    "Adapter",
]

_HOMES = {
    "from_pretrained": "loda.checkpoint",
    "save_pretrained": "loda.checkpoint",
    "LodaConfig": "loda.config",
    "cost": "loda.cost",
    "optimize_for_inference": "loda.inference",
    "inject": "loda.model",
    "merge": "loda.model",
    "trainable_parameters": "loda.model",
    "unload": "loda.model",
    "AdaptedProjection": "loda.projection",
    "Adapter": "loda.interfaces",
}


class _Package(ModuleType):
    """Imports a name, and torch with it, when it is first used: a mistake in the settings is told before that."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'loda' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The first import of loda/model.py would put that module in the place of the function of its name.
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


importlib.import_module(__name__).__class__ = _Package
