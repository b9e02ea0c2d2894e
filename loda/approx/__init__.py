"""Approximations of W_proj: one file each, with a settings class and the module that replaces the projection.

A file that is added to this folder is found by the `name` of its settings class, without being listed here.
"""

from loda.approx.block_sparse import BlockSparseConfig
from loda.approx.columns import ColumnsConfig
from loda.approx.dense import DenseConfig
from loda.approx.low_rank import LowRankConfig
from loda.approx.monarch import MonarchConfig
from loda.approx.n_m import NMConfig
from loda.approx.quantized import QuantizedConfig
from loda.approx.sparse import SparseConfig

BlockSparse = BlockSparseConfig
Columns = ColumnsConfig
Dense = DenseConfig
LowRank = LowRankConfig
Monarch = MonarchConfig
NM = NMConfig
Quantized = QuantizedConfig
Sparse = SparseConfig

__all__ = [
    "NM",
    "BlockSparse",
    "BlockSparseConfig",
    "Columns",
    "ColumnsConfig",
    "Dense",
    "DenseConfig",
    "LowRank",
    "LowRankConfig",
    "Monarch",
    "MonarchConfig",
    "NMConfig",
    "Quantized",
    "QuantizedConfig",
    "Sparse",
    "SparseConfig",
]
