"""From records to a filled table: which scores belong to a row, which epoch counts, mean and deviation.

Scores on different data or by different versions of the metrics are refused, never averaged or shown side by side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from eval.results import Record, collect
from eval.tables.runs import TableRun, commands, experiment_of, kept_epochs, row_runs
from eval.tables.spec import Column, Profile, Published, RowSpec, TableSpec, overrides, read, seeds
from loda.costs import Cost
from loda.errors import LodaError


@dataclass(frozen=True)
class Statistic:
    """Mean over n seeds and sample standard deviation, with n - 1 as in the paper's TER; None for one seed."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of 95 % of its draws (`eval.tables.bootstrap`)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """One side minus the other; p < 0.05 where the interval leaves out 0."""

    p: float

    @property
    def is_significant(self) -> bool:
        return not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Cell:
    """One metric of one row, in the unit of the column; None for what was not measured, published or asked for."""

    ours: Statistic | None
    published: Published | None
    difference: float | None = None  # ours minus published, where the two can be compared
    interval: Interval | None = None
    against: Difference | None = None  # ours minus the baseline row


@dataclass(frozen=True)
class FilledRow:
    """A row with what was measured for it: one selected record for each seed that has been run."""

    spec: RowSpec
    overrides: tuple[str, ...]  # () if the row is not run in this profile
    records: list[Record]
    missing_seeds: list[int]
    cells: dict[str, Cell]

    @property
    def is_of_one_seed(self) -> bool:
        """Whether the seed matters and only one was run."""
        return self.spec.trained and len(self.records) == 1

    @property
    def cost(self) -> Cost | None:
        """Measured if the row was run, else counted by shapes; None for a misfit or a base of unknown shape."""
        if self.records:
            return self.records[0].cost
        if not self.overrides:
            return None
        from loda.lab.base.model import cost_by_shape  # here, because it takes seconds that a full table need not wait

        experiment = experiment_of(self.overrides)
        return cost_by_shape(experiment.model, experiment.method)


@dataclass(frozen=True)
class FilledTable:
    """A table filled with the runs of one profile."""

    spec: TableSpec
    profile: str
    rows: list[FilledRow]
    settings: Sequence[str] = ()  # overrides of all runs
    baseline: str | None = None  # label of the rows that the others are compared with

    @property
    def title(self) -> str:
        return f"{self.title_prefix}: {self.spec.title}" if self.title_prefix else self.spec.title

    @property
    def title_prefix(self) -> str:
        """Says that the numbers are not comparable with the paper's; '' if they are."""
        return self.spec.profiles[self.profile].title_prefix

    @property
    def has_runs(self) -> bool:
        return any(row.records for row in self.rows)

    @property
    def is_comparable(self) -> bool:
        """Whether a difference between ours and the published values means anything."""
        return self.spec.profiles[self.profile].comparable

    @property
    def commands(self) -> list[str]:
        """The commands that fill the empty cells, row by row."""
        return [command for row in self.rows for command in self.commands_for(row)]

    def commands_for(self, row: FilledRow) -> list[str]:
        return commands(self.spec, row.spec, row.overrides, row.missing_seeds)

    def baseline_of(self, row: FilledRow) -> int | None:
        """The place of the row that `row` is compared with: the first with the label `baseline` and the same r."""
        named = (place for place, other in enumerate(self.rows) if other.spec.label == self.baseline)
        return next((place for place in named if self.rows[place].spec.r == row.spec.r), None)

    def is_best(self, row: FilledRow, metric: str, source: Literal["ours", "published"]) -> bool:
        """Whether `row` has the best value, as printed, among at least two rows that `best_per` compares."""
        column = self.spec.columns[metric]

        def printed(row: FilledRow) -> float | None:
            value = row.cells[metric].ours if source == "ours" else row.cells[metric].published
            return None if value is None else round(value.mean, column.digits)

        rivals = [
            value
            for other in self.rows
            if self.spec.best_per == "table" or other.spec.label == row.spec.label
            if (value := printed(other)) is not None
        ]
        best = max if column.better == "higher" else min
        return len(rivals) > 1 and printed(row) == best(rivals)


def build(
    table: str, profile: str = "auto", outputs: str | Path = "outputs", settings: Sequence[str] = ()
) -> FilledTable:
    """Fill `configs/table/<table>.yaml` with the scores below `outputs`, as `fill` does; rewrites `results.jsonl`."""
    return fill(read(table), profile, collect(outputs), settings)


def fill(spec: TableSpec, profile: str, records: Sequence[Record], settings: Sequence[str] = ()) -> FilledTable:
    """Fill a table with those of `records` that are its runs.

    The profile "auto" is the first that has any run, or the first of all. `settings` are the Hydra overrides that all
    runs were started with, such as model.path=FOLDER.
    """
    if profile == "auto":
        tables = (fill(spec, name, records, settings) for name in spec.profiles)
        return next((table for table in tables if table.has_runs), fill(spec, next(iter(spec.profiles)), (), settings))
    chosen = spec.profile(profile)
    base = experiment_of((*chosen.base, *settings))
    if base.dataset.scorer != spec.scorer:
        raise LodaError(f"dataset.scorer={base.dataset.scorer!r} does not fill {spec.name}; leave it at {spec.scorer}")
    wanted = (base.model.name, base.dataset.name, spec.scorer)
    mine = [record for record in records if (record.model, record.dataset, record.scorer) == wanted]
    rows = [_fill_row(spec, row, chosen, mine, settings) for row in spec.rows]
    refuse_mixed([record for row in rows for record in row.records])
    return FilledTable(spec, profile, rows, settings)


def select_epoch(records: Iterable[Record], spec: TableSpec) -> Record | None:
    """The record of one run that the table reports; equally good epochs: the earlier."""
    ordered = sorted(records, key=lambda record: record.epoch)
    reported = {record.epoch: record for record in ordered if record.split == spec.split}
    if len(reported) < 2:
        return next(iter(reported.values()), None)
    judged = {
        record.epoch: record.scores[spec.select_by]
        for record in ordered
        if record.split == spec.select_split and spec.select_by in record.scores
    }
    if unjudged := reported.keys() - judged.keys():
        raise LodaError(
            f"epochs {sorted(unjudged)} of run {ordered[0].run} have no {spec.select_by} on {spec.select_split} to "
            "select by; score that too"
        )
    best = max if spec.columns[spec.select_by].better == "higher" else min
    return reported[best(reported, key=judged.__getitem__)]


def refuse_mixed(records: Sequence[Record]) -> None:
    """Raise LodaError unless all records are of the same base, and were scored on the same data by the same metrics."""
    for kind in ("base", "data", "metrics"):
        runs = {record.hashes[kind]: record.run for record in records if kind in record.hashes}
        if len(runs) > 1:
            raise LodaError(
                f"the {kind} hashes of {' and '.join(runs.values())} differ, so their scores cannot be compared; run "
                "`python train.py` for them again, which renews what is out of date"
            )


def _fill_row(
    spec: TableSpec, row: RowSpec, profile: Profile, scored: Sequence[Record], settings: Sequence[str]
) -> FilledRow:
    runs = row_runs(spec, row, profile, settings) if scored else []  # an empty table need not compose its rows
    found = {run.seed: record for run in runs if (record := _record_of(spec, row, run, scored)) is not None}
    records = list(found.values())
    missing = [seed for seed in seeds(row, profile) if seed not in found]
    published = row.values or [None] * len(spec.columns)
    cells = {
        name: _cell(name, column, records, paper, profile.comparable)
        for (name, column), paper in zip(spec.columns.items(), published, strict=True)
    }
    return FilledRow(row, overrides(row, profile, settings), records, missing, cells)


def _record_of(spec: TableSpec, row: RowSpec, table_run: TableRun, scored: Sequence[Record]) -> Record | None:
    """The selected record of a run, once all its kept epochs are scored."""
    found: list[Record] = []
    for run in table_run.runs:
        key = (run.name, run.decode_key, run.experiment.decode.split)
        found += (own := [record for record in scored if (record.run, record.hashes["decode"], record.split) == key])
        if not kept_epochs(row, run.experiment) <= {record.epoch for record in own}:
            return None
    return select_epoch(found, spec)


def _cell(name: str, column: Column, records: list[Record], published: Published | None, comparable: bool) -> Cell:
    scores = [record.scores[name] for record in records if name in record.scores]
    if not scores:
        return Cell(None, published)
    if len(scores) < len(records):
        lacking = ", ".join(record.run for record in records if name not in record.scores)
        raise LodaError(f"{name} is missing in {lacking} but not in its other seeds; score again")
    if column.round_each is not None:
        scores = [round(score, column.round_each) for score in scores]
    values = [score * column.scale for score in scores]
    ours = Statistic(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
    return Cell(ours, published, ours.mean - published.mean if published and comparable else None)
