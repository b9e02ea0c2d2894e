"""Approximations of W_proj: one file each, with a settings class and the module that replaces the projection.

A file that is added to this folder is found by the `name` of its settings class, without being listed here.
"""

from loda.approx.dense import DenseConfig
from loda.approx.low_rank import LowRankConfig
from loda.approx.sparse import SparseConfig

Dense = DenseConfig
LowRank = LowRankConfig
Sparse = SparseConfig

__all__ = ["Dense", "DenseConfig", "LowRank", "LowRankConfig", "Sparse", "SparseConfig"]
