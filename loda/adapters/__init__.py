"""What is learned: one file for each method, exporting `Config` and, where it adds modules, `Adapter`.

The names below are the configurations of the paper's methods and baselines, for `LodaConfig(adapter=LoDAPlus(r=4))`.
Any other file in this folder is found by its name (`adapter: {name: ...}`) without being listed here.
"""

from loda.adapters.finetune import Config as FineTuning
from loda.adapters.finetune_top2 import Config as FineTuningTop2
from loda.adapters.full_rank import Config as FullRank
from loda.adapters.houlsby import Config as AdapterH
from loda.adapters.lin import Config as AdapterL
from loda.adapters.loda import Config as LoDA
from loda.adapters.loda_plus import Config as LoDAPlus
from loda.adapters.lora import Config as LoRA
from loda.adapters.none import Config as NoAdapter
from loda.adapters.prefix import Config as Prefix

__all__ = [
    "LoRA",
    "LoDA",
    "LoDAPlus",
    "FullRank",
    "FineTuning",
    "FineTuningTop2",
    "AdapterL",
    "AdapterH",
    "Prefix",
    "NoAdapter",
]
