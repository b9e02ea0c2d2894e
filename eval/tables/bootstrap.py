"""Intervals and differences of any score: over test contexts by the paired bootstrap, over seeds by Student's t.

A score is a function of sums over contexts (`eval.score.metrics`), so the statistics that scoring keeps are enough, and
1,000 resamples take seconds. The information weights of NIST and the document frequencies of CIDEr stay those of the
whole test set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
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


@dataclass(frozen=True)
class Sample:
    """One score of the runs of one side.

    Attributes:
        runs: n.
        mean: over the runs.
        resampled: the mean on every resample of the contexts; None for a score without statistics per context.
        variance: s^2 / n, the squared standard error over seeds; 0 for one run.
        noise: i^2 / n, the part of `variance` that `resampled` has too.
    """

    runs: int
    mean: float
    resampled: Values | None
    variance: float
    noise: float


class Side:
    """One side of a comparison: n runs that were scored alike, whose value is their mean.

    With other test contexts and other seeds the difference A - B of two sides would be

        d_b = A(w_b) - B(w_b) + e T_b,        e^2 = max(0, sum over A and B of (s^2 - i^2) / n)

    w_b     A resample: as many contexts as there are, with replacement, the same for A and B (Koehn, 2004).
    s^2     The sample variance of the n scores, over n - 1.
    i^2     The part of s^2 that is noise of the contexts, which A(w_b) - B(w_b) has already (Owen, 2007, "The
            pigeonhole bootstrap"): the variance of M_k(w_b) - M_k over the runs k, averaged over the resamples.
    T_b     Student's t with the degrees of freedom of Welch (1947), (sum of v)^2 / sum of v^2 / (n - 1), v = s^2 / n.

    Seeds are not drawn with replacement: means of n drawn seeds, their deviations rescaled by sqrt(n / (n - 1)), have
    the right variance but not the tails of t. With three seeds on each side (4 degrees of freedom) the true difference
    lies within 1.96 standard errors, the 95 % of the normal distribution, in 88 % of experiments.

    The seeds of A and B count as independent, also where their numbers are the same: a seed fixes the order of the
    data, but adapters differ in shapes and initial values. If it has a common effect all the same, the interval is too
    wide, not too narrow. Pairs would leave n - 1 of up to 2 (n - 1) degrees of freedom: with three seeds, 4.3 instead
    of 2.8 standard errors.

    The seed of a side with one run stays as it is, and the interval understates the uncertainty. A score without
    statistics per context has only the part of the seeds, which is Welch's t interval; with one run on each side it has
    none.

    Args:
        records: of the runs.
        statistics: for each run the arrays (contexts, numbers) by the name of the score.
        resamples: number of w_b.
    """

    def __init__(
        self, records: Sequence[Record], statistics: Sequence[Mapping[str, Values]], resamples: int = RESAMPLES
    ) -> None:
        _check_alike(records)
        self.records = records
        self.resamples = resamples
        self._statistics = statistics
        self._samples: dict[str, Sample] = {}

    def has(self, metric: str) -> bool:
        return all(metric in record.scores for record in self.records)

    def interval(self, metric: str) -> Interval | None:
        """The mean and where 95 % of the draws lie; None where neither contexts nor seeds can be drawn."""
        sample = self.sample(metric)
        draws = _draws(sample.resampled, [sample], self.resamples, sample.mean)
        return None if draws is None else Interval(sample.mean, *_bounds(draws))

    def minus(self, other: "Side", metric: str) -> Difference | None:
        """This side minus `other`, on the same resamples.

        p = 2 (1 + m) / (1 + number of draws), at most 1, where m is the number of draws on the rarer side of 0, or at 0
        (Davison & Hinkley, 1997, section 4.2). p < 0.05 where the interval of 95 % leaves out 0, and only there.
        """
        _check_alike([*self.records, *other.records])
        mine, others = self.sample(metric), other.sample(metric)
        paired = None
        if mine.resampled is not None and others.resampled is not None:
            paired = mine.resampled - others.resampled
        value = mine.mean - others.mean
        draws = _draws(paired, [mine, others], self.resamples, value)
        if draws is None:
            return None
        rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
        return Difference(value, *_bounds(draws), p=min(1.0, 2 * (1 + rarer) / (1 + len(draws))))

    def sample(self, metric: str) -> Sample:
        if metric not in self._samples:
            self._samples[metric] = self._sample(metric)
        return self._samples[metric]

    def _sample(self, metric: str) -> Sample:
        scores = np.array([record.scores[metric] for record in self.records])
        mean, n = float(scores.mean()), len(scores)
        variance = float(scores.var(ddof=1)) / n if n > 1 else 0.0
        if not all(metric in found for found in self._statistics):
            return Sample(n, mean, None, variance, noise=0.0)
        combine, scorer = load_by_key(metric).combine, self.records[0].scorer
        sums = [_weights(len(found[metric]), self.resamples) @ found[metric] for found in self._statistics]
        resampled = np.array([[combine(each, scorer) for each in run.tolist()] for run in sums])
        noise = float((resampled - scores[:, None]).var(axis=0, ddof=1).mean()) / n if n > 1 else 0.0
        return Sample(n, mean, resampled.mean(axis=0), variance, noise)


def with_intervals(table: FilledTable, outputs: str | Path, baseline: str | None = None) -> FilledTable:
    """`table` with the interval of every value, and of its difference to the row with the label `baseline`.

    In a table with several such rows, a row is compared with that of the same r.
    """
    table = replace(table, baseline=baseline)
    _check_baseline(table)
    sides = [
        Side(row.records, [read_statistics(outputs, record) for record in row.records]) if row.records else None
        for row in table.rows
    ]
    places = [table.baseline_of(row) for row in table.rows]
    references = [None if place is None else sides[place] for place in places]
    rows = [
        _with_intervals(row, table, side, reference) if side else row
        for row, side, reference in zip(table.rows, sides, references, strict=True)
    ]
    return replace(table, rows=rows)


def compare(ours: Side, theirs: Side) -> str:
    """Both sides and their difference as text, one line for each metric."""
    sides, first = {"A": ours, "B": theirs}, ours.records[0]
    rows = []
    for metric in first.scores:
        if all(side.has(metric) for side in sides.values()):
            difference = ours.minus(theirs, metric)
            value = ours.sample(metric).mean - theirs.sample(metric).mean
            p, mark = (f"{difference.p:.3f}", "*" * difference.is_significant) if difference else ("", "")
            values = [_text(side.sample(metric).mean, side.interval(metric)) for side in sides.values()]
            rows.append([metric, *values, _text(value, difference, sign="+"), p, mark])
    lacking = [metric for metric, *_ in rows if ours.sample(metric).resampled is None]
    runs = [
        f"{letter}: " + ", ".join(f"{record.run} (epoch {record.epoch:g})" for record in side.records)
        for letter, side in sides.items()
    ]
    return "\n".join(
        [
            *runs,
            f"{first.contexts} contexts of {first.split}; mean over runs [{CONFIDENCE:.0%} interval]; *: the interval "
            f"of the difference leaves out 0, p < {1 - CONFIDENCE:.2f}",
            _covered(sides),
            *([f"{', '.join(lacking)}: nothing is kept for each context, so over seeds only"] if lacking else []),
            "",
            tabulate(rows, ["", "A", "B", "A - B", "p", ""], tablefmt="plain", disable_numparse=True),
        ]
    )


def _covered(sides: Mapping[str, Side]) -> str:
    """What the intervals are about, and what they leave out."""
    single = [letter for letter, side in sides.items() if len(side.records) == 1]
    seeds = " and other seeds (Student's t)" if len(single) < len(sides) else ""
    resamples = max(side.resamples for side in sides.values())
    text = f"intervals over other test contexts ({resamples} resamples, the same for A and B){seeds}"
    if single:
        text += f"; {' and '.join(single)} of one run: not over its seed, so that they understate the uncertainty"
    return text


def _check_alike(records: Sequence[Record]) -> None:
    if not records:
        raise LodaError("a side of the comparison has no run; name at least one on each side")
    refuse_mixed(records)
    splits = sorted({(record.split, record.contexts) for record in records})
    if len(splits) > 1:
        raise LodaError(f"scores of different contexts cannot be paired: {splits}; compare scores of one split")


def _check_baseline(table: FilledTable) -> None:
    """Raise LodaError unless rows have the label `table.baseline`, if any, and one of them has runs."""
    if table.baseline is None:
        return
    named = [row for row in table.rows if row.spec.label == table.baseline]
    if not named:
        known = ", ".join(dict.fromkeys(row.spec.label for row in table.rows))
        raise LodaError(f"{table.baseline!r} is no row of {table.spec.name}; choose one of {known}")
    if not any(row.records for row in named):
        commands = "; ".join(command for row in named for command in table.commands_for(row))
        raise LodaError(f"row {table.baseline!r} has no runs to compare with; run {commands}")


def _with_intervals(row: FilledRow, table: FilledTable, side: Side, reference: Side | None) -> FilledRow:
    cells = dict(row.cells)
    for metric, cell in row.cells.items():
        if cell.ours is not None:
            scale = table.spec.columns[metric].scale
            interval, against = side.interval(metric), None
            if reference is not None and reference is not side and reference.has(metric):
                against = side.minus(reference, metric)
            cells[metric] = replace(cell, interval=_scaled(interval, scale), against=_scaled(against, scale))
    return replace(row, cells=cells)


def _scaled(found: AnyInterval | None, scale: float) -> AnyInterval | None:
    if found is None:
        return None
    return replace(found, value=found.value * scale, low=found.low * scale, high=found.high * scale)


@lru_cache(maxsize=1)
def _weights(contexts: int, resamples: int) -> Values:
    """How often each context is in each resample; the same for all sides, so that they are paired."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(contexts, np.full(contexts, 1 / contexts), size=resamples).astype(np.float64)


def _draws(resampled: Values | None, samples: Sequence[Sample], count: int, value: float) -> Values | None:
    """`value` with other contexts, where `resampled` has them, and with other seeds, where `samples` have several.

    The t are quantiles in random order, so that their tails are exact, and each is taken with both signs, so that the
    draws of B - A are those of A - B with the other sign.
    """
    seeds = [sample for sample in samples if sample.runs > 1]
    if resampled is None and not seeds:
        return None
    draws = np.full(count, value) if resampled is None else resampled
    variance = sum(sample.variance for sample in seeds)
    squared = variance - sum(sample.noise for sample in seeds)
    if squared <= 0:
        return draws
    freedom = variance**2 / sum(sample.variance**2 / (sample.runs - 1) for sample in seeds)
    moved = squared**0.5 * stdtrit(freedom, _uniform(count))
    return np.concatenate([draws + moved, draws - moved])


@lru_cache(maxsize=1)
def _uniform(count: int) -> Values:
    """The middles of `count` equal parts of (0, 1), in random order."""
    order = np.random.default_rng(SEED + 1).permutation(count)
    return (order.astype(np.float64) + 0.5) / count


def _bounds(draws: Values) -> tuple[float, float]:
    """Two of the draws, so that 0 lies outside just where p < 1 - CONFIDENCE."""
    tail = (1 - CONFIDENCE) / 2
    return float(np.quantile(draws, tail, method="lower")), float(np.quantile(draws, 1 - tail, method="higher"))


def _text(value: float, interval: Interval | None, sign: str = "") -> str:
    bounds = f" [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]" if interval else ""
    return f"{value:{sign}.4f}{bounds}"
