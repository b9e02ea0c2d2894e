"""What is learned beside a frozen projection: one file for each adapter, exporting `Config` and `Adapter`.

The names below are the configurations of the paper's methods, for `LodaConfig(adapter=LoDAPlus(r=4))`. Any other
file in this folder is found by its name (`adapter: {name: ...}`) without being listed here.
"""

from loda.adapters.ft_qv import Config as FullRank
from loda.adapters.loda import Config as LoDA
from loda.adapters.loda_plus import Config as LoDAPlus
from loda.adapters.lora import Config as LoRA
from loda.adapters.none import Config as NoAdapter

__all__ = ["LoRA", "LoDA", "LoDAPlus", "FullRank", "NoAdapter"]
