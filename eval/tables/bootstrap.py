"""The paired bootstrap over contexts (Koehn, 2004), for any metric.

A resample draws as many contexts as there are, with replacement, the same for both sides. A metric is a function of
sums over contexts (`eval.score.metrics`), so the statistics that scoring keeps are enough, and 1,000 resamples take
seconds. The information weights of NIST and the document frequencies of CIDEr stay those of the whole test set.

An interval says how far a value depends on the contexts of the test set, the deviation over seeds how far on the seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from eval.results import Record, read_statistics
from eval.score import load_by_key
from eval.tables.fill import Difference, FilledRow, FilledTable, Interval, refuse_mixed
from loda.errors import LodaError

RESAMPLES = 1000
SEED = 12345
CONFIDENCE = 0.95

Values = NDArray[np.float64]
AnyInterval = TypeVar("AnyInterval", bound=Interval)


class Side:
    """One side of a comparison: runs that were scored alike, whose value is their mean.

    `statistics` has for each run the arrays (contexts, numbers) by the name of the score.
    """

    def __init__(
        self, records: Sequence[Record], statistics: Sequence[Mapping[str, Values]], resamples: int = RESAMPLES
    ) -> None:
        _check_alike(records)
        self.records = records
        self.resamples = resamples
        self._statistics = statistics
        self._resampled: dict[str, Values] = {}

    def interval(self, metric: str) -> Interval:
        return Interval(self._value(metric), *_bounds(self.resampled(metric)))

    def minus(self, other: "Side", metric: str) -> Difference:
        """This side minus `other`, on the same resamples.

        p = (1 + number of resamples that lie at least |difference| away from their mean) / (1 + number of resamples).
        """
        _check_alike([*self.records, *other.records])
        value = self._value(metric) - other._value(metric)
        resampled = self.resampled(metric) - other.resampled(metric)
        extreme = np.abs(resampled - resampled.mean()) >= abs(value)
        return Difference(value, *_bounds(resampled), p=(1 + int(extreme.sum())) / (1 + len(resampled)))

    def resampled(self, metric: str) -> Values:
        """The value on every resample."""
        if metric not in self._resampled:
            combine, scorer = load_by_key(metric).combine, self.records[0].scorer
            runs = [_weights(len(found[metric]), self.resamples) @ found[metric] for found in self._statistics]
            self._resampled[metric] = np.mean(
                [[combine(sums, scorer) for sums in run.tolist()] for run in runs], axis=0
            )
        return self._resampled[metric]

    def _value(self, metric: str) -> float:
        return float(np.mean([record.scores[metric] for record in self.records]))


def with_intervals(table: FilledTable, outputs: str | Path, baseline: str | None = None) -> FilledTable:
    """`table` with the interval of every value, and of its difference to the row with the label `baseline`."""
    sides = [
        Side(row.records, [read_statistics(outputs, record) for record in row.records]) if row.records else None
        for row in table.rows
    ]
    reference = None if baseline is None else sides[_place(table, baseline)]
    rows = [
        _with_intervals(row, table, side, reference) if side else row
        for row, side in zip(table.rows, sides, strict=True)
    ]
    return replace(table, rows=rows, baseline=baseline)


def compare(ours: Side, theirs: Side) -> str:
    """Both sides and their difference as text, one line for each metric."""
    rows = []
    for metric in ours.records[0].scores:
        difference = ours.minus(theirs, metric)
        sides = [_text(side.interval(metric)) for side in (ours, theirs)]
        mark = "*" if difference.is_significant else ""
        rows.append([metric, *sides, _text(difference, sign="+"), f"{difference.p:.3f}", mark])
    runs = [
        f"{letter}: " + ", ".join(f"{record.run} (epoch {record.epoch:g})" for record in side.records)
        for letter, side in (("A", ours), ("B", theirs))
    ]
    first = ours.records[0]
    return "\n".join(
        [
            *runs,
            f"{first.contexts} contexts of {first.split}, {ours.resamples} resamples; mean over runs [95 % interval]; "
            "*: the interval of the difference leaves out 0",
            "",
            tabulate(rows, ["", "A", "B", "A - B", "p", ""], tablefmt="plain", disable_numparse=True),
        ]
    )


def _check_alike(records: Sequence[Record]) -> None:
    if not records:
        raise LodaError("a side of the comparison has no run; name at least one on each side")
    refuse_mixed(records)
    splits = sorted({(record.split, record.contexts) for record in records})
    if len(splits) > 1:
        raise LodaError(f"scores of different contexts cannot be paired: {splits}; compare scores of one split")


def _place(table: FilledTable, label: str) -> int:
    """The first row with this label, which must have runs."""
    labels = [row.spec.label for row in table.rows]
    if label not in labels:
        known = ", ".join(dict.fromkeys(labels))
        raise LodaError(f"{label!r} is no row of {table.spec.name}; choose one of {known}")
    place = labels.index(label)
    if not table.rows[place].records:
        commands = "; ".join(table.commands_for(table.rows[place]))
        raise LodaError(f"row {label!r} has no runs to compare with; run {commands}")
    return place


def _with_intervals(row: FilledRow, table: FilledTable, side: Side, reference: Side | None) -> FilledRow:
    cells = dict(row.cells)
    for metric, cell in row.cells.items():
        if cell.ours is not None:
            scale = table.spec.columns[metric].scale
            against = None if reference in (None, side) else _scaled(side.minus(reference, metric), scale)
            cells[metric] = replace(cell, interval=_scaled(side.interval(metric), scale), against=against)
    return replace(row, cells=cells)


def _scaled(found: AnyInterval, scale: float) -> AnyInterval:
    return replace(found, value=found.value * scale, low=found.low * scale, high=found.high * scale)


@lru_cache(maxsize=1)
def _weights(contexts: int, resamples: int) -> Values:
    """How often each context is in each resample; the same for all sides, so that they are paired."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(contexts, np.full(contexts, 1 / contexts), size=resamples).astype(np.float64)


def _bounds(values: Values) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _text(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"
