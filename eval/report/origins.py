"""Where the scores of a set of records come from: every distinct version, machine and hash, with how many have it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from eval.results import Record

Counts = dict[str, dict[str, int]]
"""Name of a thing that is recorded -> its distinct values, the most common first -> number of scores that have it."""

# What differs from run to run and says nothing about where a number comes from.
OF_ONE_RUN = ("seconds", "finished")


def provenances(records: Sequence[Record]) -> dict[str, Counts]:
    """The provenance of each stage, training and scoring, by what it records."""
    stages = dict.fromkeys(stage for record in records for stage in record.provenance)
    return {stage: _counts(_leaves(record.provenance.get(stage), stage) for record in records) for stage in stages}


def hashes(records: Sequence[Record]) -> Counts:
    """The hashes by what they identify; scores that differ in one are never averaged."""
    return _counts(
        [
            (f"data: {record.dataset}", record.hashes["data"]),
            (f"decoding: {record.split}", record.hashes["decode"]),
            (f"metrics: {record.protocol}", record.hashes["metrics"]),
        ]
        for record in records
    )


def _counts(found: Iterable[list[tuple[str, str]]]) -> Counts:
    counters: dict[str, Counter[str]] = {}
    for name, value in chain.from_iterable(found):
        counters.setdefault(name, Counter())[value] += 1
    return {name: dict(counter.most_common()) for name, counter in counters.items()}


def _leaves(tree: Any, name: str) -> list[tuple[str, str]]:
    """The values of nested objects, each with the key it stands under."""
    if isinstance(tree, Mapping):
        return [leaf for key, part in tree.items() if key not in OF_ONE_RUN for leaf in _leaves(part, key)]
    return [(name.replace("_", " "), "unknown" if tree is None else str(tree))]
