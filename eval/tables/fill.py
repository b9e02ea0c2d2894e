"""From records to a filled table: which runs belong to a row, which epoch counts, mean and deviation.

A row is found by composing its experiment and asking for the names of its runs: the table and the training share
one definition of "the same experiment". Runs that were decoded otherwise are other runs; scores on other data or by
other versions of the metrics are refused, never averaged or shown side by side.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev, stdev

from eval.results import Record, collect
from eval.tables.bootstrap import Difference, Interval
from eval.tables.spec import (
    BestPer,
    Better,
    Column,
    Deviation,
    Profile,
    Published,
    Row,
    TableSpec,
    overrides,
    read,
    seeds,
)
from loda.errors import LodaError
from loda.lab.config import Experiment, compose
from loda.lab.fingerprint import decode_key
from loda.lab.run import Outputs


@dataclass(frozen=True)
class Statistic:
    """Mean and standard deviation over n seeds; no deviation for one seed."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Cell:
    """One metric of one row, in the units of the column.

    Attributes:
        ours: what we measured; None where nothing was run.
        published: what the paper has; None where it has nothing.
        difference: ours minus published, None where the two cannot be compared.
        interval: of ours over resampled contexts, where that was asked for (`eval.tables.intervals`).
        against: ours minus that of the row that all are compared with, likewise.
    """

    ours: Statistic | None
    published: Published | None
    difference: float | None = None
    interval: Interval | None = None
    against: Difference | None = None


@dataclass(frozen=True)
class Line:
    """A row with what was measured for it: one selected record per seed that has been run."""

    row: Row
    overrides: list[str]  # [] if the row is not run in this profile
    records: list[Record]
    missing_seeds: list[int]
    cells: dict[str, Cell]


@dataclass(frozen=True)
class TableData:
    """A table filled with the runs of one profile, which were all started with `settings` besides.

    `protocol` is the one of the table's protocols that scored them; `baseline` is the label of the row that the others
    are compared with, None where that was not asked for.
    """

    spec: TableSpec
    profile: str
    protocol: str
    lines: list[Line]
    settings: Sequence[str] = ()
    baseline: str | None = None

    @property
    def has_runs(self) -> bool:
        """Whether any cell holds a number of ours."""
        return any(line.records for line in self.lines)

    def is_best(self, line: Line, metric: str) -> bool:
        """Whether `line` has our best value, as printed, among the rows it is compared with.

        Those are all rows, or for `best_per: label` the rows of one method; a row without a rival is not the best
        of anything.
        """
        column = self.spec.columns[metric]
        rivals = [
            round(ours.mean, column.digits)
            for other in self.lines
            if self.spec.best_per is BestPer.table or other.row.label == line.row.label
            if (ours := other.cells[metric].ours) is not None
        ]
        ours = line.cells[metric].ours
        if ours is None or len(rivals) < 2:
            return False
        best = max(rivals) if column.better is Better.higher else min(rivals)
        return round(ours.mean, column.digits) == best

    @property
    def is_comparable(self) -> bool:
        """Whether a difference between ours and the published values means anything."""
        return _is_comparable(self.spec, self.spec.profiles[self.profile], self.protocol)

    @property
    def commands(self) -> list[str]:
        """The commands that fill the empty cells, row by row."""
        return [command for line in self.lines for command in self.commands_for(line)]

    def commands_for(self, line: Line) -> list[str]:
        """The commands that run the missing seeds of a row, one for each split it needs; [] if none is missing."""
        if not line.missing_seeds:
            return []
        found = decodings(self.spec, line.overrides)
        seed = "seed=" + ",".join(map(str, line.missing_seeds))
        several = len(line.missing_seeds) > 1
        return [train_command([*line.overrides, *decoding, seed], several) for decoding in found]


def build(
    table: str, profile: str = "auto", outputs: str | Path = "outputs", settings: Sequence[str] = ()
) -> TableData:
    """Fill `table` with the scores below `outputs`; rewrites `results.jsonl` on the way.

    Args:
        table: name of a file in configs/table.
        profile: one of the table's profiles, or "auto": the first of them that has any run, or the first if none has.
        outputs: root of the outputs folder.
        settings: Hydra overrides that all runs were started with, such as model.path=FOLDER.

    Raises:
        LodaError: unknown table, profile or setting, a malformed `scores.json`, or records that differ in data,
            decoding or metrics and so cannot stand in one table.
    """
    spec = read(table)
    if profile != "auto" and profile not in spec.profiles:
        raise LodaError(f"unknown profile {profile!r} of {table}; choose auto or {', '.join(spec.profiles)}")
    records = collect(outputs)
    candidates: list[TableData] = []
    for name in list(spec.profiles) if profile == "auto" else [profile]:
        candidates.append(_fill(spec, name, records, Outputs(Path(outputs)), settings))
        if candidates[-1].has_runs:
            return candidates[-1]
    return candidates[0]


def statistic(values: Sequence[float], deviation: Deviation) -> Statistic:
    """Mean and deviation of at least one value."""
    spread = stdev if deviation is Deviation.sample else pstdev
    return Statistic(fmean(values), spread(values) if len(values) > 1 else None, len(values))


def select_epoch(records: Iterable[Record], spec: TableSpec) -> Record | None:
    """Of one run's records the one the table reports: `spec.split` at the best epoch.

    The best epoch is judged by `spec.select_by` on `spec.select_split`, ties go to the earlier one.

    Raises:
        LodaError: there is a choice to make and an epoch has no score on the selecting split.
    """
    judged: dict[float, Record] = {}
    reported: dict[float, Record] = {}
    for record in sorted(records, key=lambda record: record.epoch):
        if record.split == spec.select_split and spec.select_by in record.scores:
            judged[record.epoch] = record
        if record.split == spec.split:
            reported[record.epoch] = record
    if len(reported) < 2:
        return next(iter(reported.values()), None)
    if unjudged := reported.keys() - judged.keys():
        raise LodaError(
            f"epochs {sorted(unjudged)} of run {next(iter(reported.values())).run} have no "
            f"{spec.select_by} on {spec.select_split} to select by; score that too"
        )
    sign = 1 if spec.columns[spec.select_by].better is Better.higher else -1
    return reported[max(reported, key=lambda epoch: sign * judged[epoch].scores[spec.select_by])]


def _fill(spec: TableSpec, name: str, records: list[Record], outputs: Outputs, settings: Sequence[str]) -> TableData:
    profile = replace(spec.profiles[name], base=[*spec.profiles[name].base, *settings])
    base = experiment_of(tuple(profile.base))
    protocol = base.dataset.protocol
    if protocol not in spec.protocols:
        raise LodaError(
            f"dataset.protocol={protocol!r} does not fill {spec.name}; choose {' or '.join(spec.protocols)}"
        )
    by_run: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if (record.model, record.dataset, record.protocol) == (base.model.name, base.dataset.name, protocol):
            by_run.setdefault((record.run, record.hashes["decode"]), []).append(record)
    lines = []
    for row in spec.rows:
        found = _find(spec, row, profile, by_run, outputs) if by_run else {}
        missing = [seed for seed in seeds(row, profile) if seed not in found]
        kept = list(found.values())
        cells = _cells(spec, row, kept, comparable=_is_comparable(spec, profile, protocol))
        lines.append(Line(row, overrides(row, profile), kept, missing, cells))
    _refuse_mixed([record for line in lines for record in line.records])
    return TableData(spec, name, protocol, lines, settings)


def _is_comparable(spec: TableSpec, profile: Profile, protocol: str) -> bool:
    return profile.comparable and protocol == spec.papers_protocol


@cache
def experiment_of(arguments: tuple[str, ...]) -> Experiment:
    """`compose`, remembered: Hydra takes some tenths of a second for each, and a table has up to 30 rows."""
    return compose(arguments)


def _find(
    spec: TableSpec, row: Row, profile: Profile, by_run: dict[tuple[str, str], list[Record]], outputs: Outputs
) -> dict[int, Record]:
    """The selected record of every seed whose kept epochs are all scored."""
    found: dict[int, Record] = {}
    for seed in seeds(row, profile):
        experiment = replace(experiment_of(tuple(overrides(row, profile))), seed=seed)
        run = outputs.run(experiment).name
        scored = [record for key in _decode_keys(experiment, spec) for record in by_run.get((run, key), [])]
        epochs = {split: {one.epoch for one in scored if one.split == split} for split in splits(spec, experiment)}
        if all(_kept_epochs(experiment) <= present for present in epochs.values()):
            record = select_epoch(scored, spec)
            found |= {seed: record} if record is not None else {}
    return found


def splits(spec: TableSpec, experiment: Experiment) -> list[str]:
    """The splits that a run must be scored on: the reported one, and the selecting one where there is a choice."""
    several = len(_kept_epochs(experiment)) > 1
    return list(dict.fromkeys([spec.split, spec.select_split])) if several else [spec.split]


def decodings(spec: TableSpec, overrides: Sequence[str]) -> list[list[str]]:
    """What to add to the overrides of a run for each of its `splits`: nothing for the reported one."""
    if spec.select_split == spec.split:
        return [[]]
    needed = splits(spec, experiment_of(tuple(overrides)))
    return [[] if split == spec.split else [f"decode.split={split}"] for split in needed]


def _decode_keys(experiment: Experiment, spec: TableSpec) -> set[str]:
    """Decoding as `experiment` does it, of the reported and of the selecting split."""
    decodes = [replace(experiment.decode, split=split) for split in (spec.split, spec.select_split)]
    return {decode_key(replace(experiment, decode=decode)) for decode in decodes}


def _kept_epochs(experiment: Experiment) -> set[float]:
    """The epochs that must be scored before one is selected; a run cut short by `max_steps` has none."""
    optim = experiment.optim
    if not experiment.trains or experiment.trainer.max_steps is not None:
        return set()
    return {epoch for epoch in (*optim.keep_epochs, optim.epochs) if epoch <= optim.epochs}


def _cells(spec: TableSpec, row: Row, records: list[Record], comparable: bool) -> dict[str, Cell]:
    published = row.values or [None] * len(spec.columns)
    cells = {}
    for (name, column), paper in zip(spec.columns.items(), published, strict=True):
        ours = _ours(name, column, spec.deviation, records)
        difference = None
        if ours is not None and paper is not None and comparable:
            difference = ours.mean - paper.mean
        cells[name] = Cell(ours, paper, difference)
    return cells


def _ours(name: str, column: Column, deviation: Deviation, records: list[Record]) -> Statistic | None:
    scores = [record.scores[name] for record in records if name in record.scores]
    if column.round_each is not None:
        scores = [round(score, column.round_each) for score in scores]
    values = [score * column.scale for score in scores]
    if values and len(values) < len(records):
        lacking = ", ".join(record.run for record in records if name not in record.scores)
        raise LodaError(f"{name} is missing in {lacking} but not in its other seeds; score again")
    return statistic(values, deviation) if values else None


def _refuse_mixed(records: list[Record]) -> None:
    for kind in ("data", "metrics"):
        runs = {record.hashes[kind]: record.run for record in records}
        if len(runs) > 1:
            raise LodaError(
                f"the {kind} hashes of {' and '.join(runs.values())} differ, so their scores cannot stand in one "
                "table; run `python train.py` for them again, which renews what is out of date"
            )


def train_command(arguments: Sequence[str], several: bool) -> str:
    """What runs these overrides, one run or several, to be pasted into a shell."""
    return shlex.join(["python", "train.py", *(["-m"] if several else []), *arguments])
