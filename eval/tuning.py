"""A learning-rate sweep for each row of a table, under one budget: the same factors, seed and length of training.

A trial is an ordinary run of the row at a multiple of the row's own learning rate, scored on the validation split;
the test split has no say. An untuned baseline is the commonest flaw of comparisons of adapters, and one that is tuned
longer than its rivals the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval.aggregate import experiment_of
from eval.completion import is_complete, metrics_of, scores_of
from eval.records import Record
from eval.score import load_metric
from eval.table_spec import Better, Row, TableSpec, overrides
from loda.errors import LodaError
from loda.lab.config import Experiment

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SPLIT = "valid"


@dataclass(frozen=True)
class Trial:
    """A row at one learning rate: `factor` times its own."""

    factor: float
    rate: float
    overrides: list[str]
    experiment: Experiment


@dataclass(frozen=True)
class Sweep:
    """All trials of a row, by rising rate."""

    row: Row
    trials: list[Trial]


@dataclass(frozen=True)
class Tuned:
    """What a sweep found: the value of every trial (None: not run), and which is best."""

    sweep: Sweep
    values: list[float | None]
    best: Trial | None

    @property
    def is_at_the_edge(self) -> bool:
        """Whether the best rate is the smallest or largest that was tried, so that one beyond may be better."""
        return self.best is not None and self.best in (self.sweep.trials[0], self.sweep.trials[-1])


def sweeps(
    spec: TableSpec, profile: str, settings: Sequence[str], labels: Sequence[str], factors: Sequence[float], seed: int
) -> list[Sweep]:
    """The sweep of every trained row that the profile runs.

    Args:
        spec: the table.
        profile: one of its profiles.
        settings: Hydra overrides for all trials.
        labels: the rows to tune; all if empty.
        factors: of each row's own learning rate, all positive.
        seed: of all trials.

    Raises:
        LodaError: an unknown label, a factor that is not positive, fewer than two factors, or runs that are not scored
            by what the table selects by.
    """
    known = list(dict.fromkeys(row.label for row in spec.rows if row.trained))
    if unknown := [label for label in labels if label not in known]:
        raise LodaError(f"{unknown[0]!r} is no trained row of {spec.name}; choose among {', '.join(known)}")
    if len(set(factors)) < 2 or min(factors) <= 0:
        raise LodaError(f"factors={list(factors)} must be two or more different positive numbers; default: {FACTORS}")
    rows = [row for row in spec.rows if row.trained and row.label in (labels or known)]
    swept = [
        _sweep(row, [*overrides(row, spec.profiles[profile]), *settings, f"decode.split={SPLIT}"], factors, seed)
        for row in rows
        if overrides(row, spec.profiles[profile])
    ]
    for sweep in swept:
        judged = [load_metric(name).key for name in metrics_of(sweep.trials[0].experiment.dataset)]
        if spec.select_by not in judged:
            raise LodaError(
                f"dataset.metrics gives {', '.join(judged)}, but {spec.name} chooses by {spec.select_by}: add it"
            )
    return swept


def tuned(sweep: Sweep, spec: TableSpec) -> Tuned:
    """Judge the trials of a sweep that have been run, by the metric that the table selects by."""
    sign = 1 if spec.columns[spec.select_by].better is Better.higher else -1
    values = [_value(trial.experiment, spec.select_by, sign) for trial in sweep.trials]
    run = [(sign * value, trial) for value, trial in zip(values, sweep.trials, strict=True) if value is not None]
    # Of equal values the smaller rate, which comes first.
    return Tuned(sweep, values, max(run, key=lambda pair: pair[0])[1] if run else None)


def _sweep(row: Row, arguments: list[str], factors: Sequence[float], seed: int) -> Sweep:
    base = replace(experiment_of(tuple(arguments)), seed=seed)
    trials = []
    for factor in sorted(set(factors)):
        rate = float(f"{factor * base.optim.lr:.3g}")
        experiment = replace(base, optim=replace(base.optim, lr=rate))
        trials.append(Trial(factor, rate, [*arguments, f"optim.lr={rate:g}"], experiment))
    return Sweep(row, trials)


def _value(experiment: Experiment, metric: str, sign: int) -> float | None:
    """The best over the kept epochs."""
    if not is_complete(experiment):
        return None
    records: list[Record] = scores_of(experiment)
    return max((record.scores[metric] for record in records), key=lambda value: sign * value)
