"""What a frozen projection has become: one file for each approximation, exporting `Config` and `Frozen`.

The names below are for `LodaConfig(approx=LowRank(rank=300))`. Any other file in this folder is found by its name
(`approx: {name: ...}`) without being listed here.
"""

from loda.approx.dense import Config as Dense
from loda.approx.low_rank import Config as LowRank
from loda.approx.sparse import Config as Sparse

__all__ = ["Dense", "LowRank", "Sparse"]
