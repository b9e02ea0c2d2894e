"""Is the difference real? The paired bootstrap over contexts (Koehn, 2004), for any metric.

A resample draws as many contexts as there are, with replacement, the same for both sides. A metric is a function of
sums over contexts (`eval.score.metrics`), so its value on a resample is that function of re-weighted sums: the
statistics that scoring has kept are enough, and 1,000 resamples take seconds. What was learnt from the whole test set
stays as it is: the information weights of NIST and the document frequencies of CIDEr.

A side is one run or a group of seeds; its value is the mean over its runs, all on the same resample. The intervals say
how far a value depends on which contexts the test set happens to have. How far it depends on the seed is another
question, which the deviation over seeds answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from eval.results import Record
from eval.score import load_by_key
from eval.score.corpus import Statistics
from loda.atomic import sha256, write_file
from loda.errors import LodaError
from loda.lab.run import RunDir

RESAMPLES = 1000
SEED = 12345
CONFIDENCE = 0.95

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value, and between which bounds 95 % of its resamples lie."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Self:
        """The same in another unit; `factor` is positive."""
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True)
class Difference(Interval):
    """One side minus another.

    Attributes:
        p: how often a difference at least as far from 0 would come from contexts alone if there were none:
            (1 + number of resamples that lie at least |value| away from their mean) / (1 + number of resamples).
    """

    p: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def save_statistics(path: Path, statistics: dict[str, list[Statistics]]) -> None:
    """Keep the statistics of a scored corpus, by the name of the score: (contexts, numbers) each."""
    arrays = {key: np.asarray(rows, dtype=np.float64) for key, rows in statistics.items()}
    write_file(path, lambda temporary: save_file(arrays, temporary))


def load_statistics(record: Record, run: RunDir) -> dict[str, Values]:
    """The statistics behind a record, by the name of the score.

    Raises:
        LodaError: they are not there, or not those that the record was made with.
    """
    expected = record.hashes.get("statistics")
    candidates = run.statistics(record.hashes["decode"], record.split, record.protocol)
    path = next((path for path in candidates if sha256(path) == expected), None)
    if path is None:
        raise LodaError(
            f"the statistics by context behind the scores of {record.run} are missing or were changed; delete its "
            "scores.json and repeat the command of the run, which scores it again"
        )
    arrays: dict[str, Values] = load_file(path)
    return arrays


class Resampled:
    """The values of one side on the whole test set and on every resample, computed once for each metric.

    Args:
        records: the runs of the side, all scored on the same contexts by the same metrics.
        runs: the folder of each.
        resamples: how many.

    Raises:
        LodaError: no record, or records that were not scored alike.
    """

    def __init__(self, records: Sequence[Record], runs: Sequence[RunDir], resamples: int = RESAMPLES) -> None:
        self.records = records
        self.resamples = resamples
        check_alike(records)
        self._statistics = [load_statistics(*pair) for pair in zip(records, runs, strict=True)]
        self._values: dict[str, tuple[float, Values]] = {}

    def interval(self, metric: str) -> Interval:
        """The mean over the runs, with its interval."""
        value, resampled = self.values(metric)
        return Interval(value, *_bounds(resampled))

    def minus(self, other: "Resampled", metric: str) -> Difference:
        """This side minus `other`, on the same resamples.

        Raises:
            LodaError: the two were not scored alike.
        """
        check_alike([*self.records, *other.records])
        (mine, my_values), (theirs, their_values) = self.values(metric), other.values(metric)
        value, resampled = mine - theirs, my_values - their_values
        extreme = np.abs(resampled - resampled.mean()) >= abs(value)
        return Difference(value, *_bounds(resampled), p=(1 + int(extreme.sum())) / (1 + len(resampled)))

    def values(self, metric: str) -> tuple[float, Values]:
        """The value on the whole test set, and those of the resamples."""
        if metric not in self._values:
            protocol = self.records[0].protocol
            runs = [_values(metric, found[metric], protocol, self.resamples) for found in self._statistics]
            whole = float(np.mean([record.scores[metric] for record in self.records]))
            self._values[metric] = (whole, np.mean(runs, axis=0))
        return self._values[metric]


def check_alike(records: Sequence[Record]) -> None:
    """Raise LodaError unless these scores are of the same contexts, by the same metrics, and there are any."""
    if not records:
        raise LodaError("a side of the comparison has no run; name at least one on each side")
    for kind in ("data", "metrics"):
        found = {record.hashes[kind]: record.run for record in records}
        if len(found) > 1:
            raise LodaError(f"{' and '.join(found.values())} differ in {kind}, so their contexts cannot be paired")
    splits = {(record.split, record.contexts) for record in records}
    if len(splits) > 1:
        raise LodaError(f"scores of different contexts cannot be paired: {sorted(splits)}")


def _values(metric: str, statistics: Values, protocol: str, resamples: int) -> Values:
    combine = load_by_key(metric).combine
    return np.array([combine(sums, protocol) for sums in (_weights(len(statistics), resamples) @ statistics).tolist()])


def _weights(contexts: int, resamples: int) -> Values:
    """How often each context is in each resample; the same for the same numbers, so that all sides are paired."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(contexts, np.full(contexts, 1 / contexts), size=resamples).astype(np.float64)


def _bounds(values: Values) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
