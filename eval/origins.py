"""Where the scores of a set of records come from: every distinct version, machine and hash, with how many have it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eval.records import Record

# What differs from run to run and says nothing about where a number comes from.
OF_ONE_RUN = ("seconds", "finished")


@dataclass(frozen=True)
class Origin:
    """One thing that is recorded with every score, and its distinct values with the number of scores that have each."""

    name: str
    values: dict[str, int]


def origins(records: Iterable[Record]) -> list[Origin]:
    """Provenance by its path, as `training packages torch`, then the hashes by what they identify."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in [*_leaves(record.provenance), *_hashes(record)]:
            counts.setdefault(name, Counter())[value] += 1
    return [Origin(name, dict(counter.most_common())) for name, counter in counts.items()]


def _leaves(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    leaves = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves += _leaves(value, f"{path}{key} ")
        elif key not in OF_ONE_RUN:
            leaves.append((f"{path}{key}".replace("_", " "), "unknown" if value is None else str(value)))
    return leaves


def _hashes(record: Record) -> list[tuple[str, str]]:
    return [
        (f"hash of the data ({record.dataset})", record.hashes["data"]),
        (f"hash of the decoding ({record.split})", record.hashes["decode"]),
        (f"hash of the metrics ({record.protocol})", record.hashes["metrics"]),
    ]
