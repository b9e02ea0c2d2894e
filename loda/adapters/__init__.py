"""Adapters: one file for each kind of method, with the settings classes and the module that is trained.

A file that is added to this folder is found by the `name` of its settings class, without being listed here.
"""

from loda.adapters.bottleneck import LoDAConfig, LoDAPlusConfig, LoRAConfig
from loda.adapters.finetune import FineTuneConfig, FineTuneTop2Config
from loda.adapters.full_rank import FullRankConfig
from loda.adapters.none import NoAdapterConfig
from loda.adapters.prefix import PrefixConfig
from loda.adapters.serial import HoulsbyConfig, LinConfig

LoRA = LoRAConfig
LoDA = LoDAConfig
LoDAPlus = LoDAPlusConfig
FullRank = FullRankConfig
FineTune = FineTuneConfig
FineTuneTop2 = FineTuneTop2Config
Lin = LinConfig
Houlsby = HoulsbyConfig
Prefix = PrefixConfig
NoAdapter = NoAdapterConfig

__all__ = [
    "LoRA",
    "LoDA",
    "LoDAPlus",
    "FullRank",
    "FineTune",
    "FineTuneTop2",
    "Lin",
    "Houlsby",
    "Prefix",
    "NoAdapter",
    "LoRAConfig",
    "LoDAConfig",
    "LoDAPlusConfig",
    "FullRankConfig",
    "FineTuneConfig",
    "FineTuneTop2Config",
    "LinConfig",
    "HoulsbyConfig",
    "PrefixConfig",
    "NoAdapterConfig",
]
