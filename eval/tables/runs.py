"""The runs of a table, for every row, seed and split.

A row is found by composing its experiment, as training does, so both agree on what the same run is.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from eval.tables.spec import Profile, RowSpec, TableSpec, overrides, read, seeds
from loda.lab.config import Experiment, Split, compose
from loda.lab.run import Run


@dataclass(frozen=True)
class TableRun:
    """One row with one seed: its overrides, and its run for each split, the reported one first."""

    row: str
    label: str
    seed: int
    overrides: tuple[str, ...]
    runs: tuple[Run, ...]


def table_runs(
    table: str, profile: str, settings: Sequence[str] = (), labels: Sequence[str] | None = None
) -> list[TableRun]:
    """Every run of a table, or of its rows with `labels`, by row and seed; `settings` are overrides for all of them."""
    spec = read(table)
    return [run for row in spec.rows_of(labels) for run in row_runs(spec, row, spec.profile(profile), settings)]


def row_runs(spec: TableSpec, row: RowSpec, profile: Profile, settings: Sequence[str] = ()) -> list[TableRun]:
    """The runs of a row, one for each seed; [] if the profile leaves the row out."""
    arguments = overrides(row, profile, settings)
    if not arguments:
        return []
    experiment = experiment_of(arguments)
    decodes = [replace(experiment.decode, split=split) for split in splits(spec, row, arguments)]
    label = f"{row.label} (r={row.r})" if row.r else row.label
    return [
        TableRun(
            row.label,
            f"{label}, seed {seed}",
            seed,
            (*arguments, f"seed={seed}"),
            tuple(Run(replace(experiment, seed=seed, decode=decode)) for decode in decodes),
        )
        for seed in seeds(row, profile)
    ]


@cache
def experiment_of(arguments: tuple[str, ...]) -> Experiment:
    """`compose`, cached: Hydra takes tenths of a second, and a table has up to 30 rows."""
    return compose(arguments)


def kept_epochs(row: RowSpec, experiment: Experiment) -> set[float]:
    """The epochs that must all be scored before one is selected; none for a run that `max_steps` cuts short."""
    optim = experiment.optim
    if not row.trained or experiment.trainer.max_steps is not None:
        return set()
    return {epoch for epoch in (*optim.checkpoint_epochs, optim.epochs) if epoch <= optim.epochs}


def splits(spec: TableSpec, row: RowSpec, arguments: tuple[str, ...]) -> list[Split]:
    """The splits that a row must be scored on: the reported one, and the selecting one where there is a choice."""
    if spec.select_split == spec.split:
        return [spec.split]  # without composing: an empty table prints at once
    several = len(kept_epochs(row, experiment_of(arguments))) > 1
    return [spec.split, spec.select_split] if several else [spec.split]


def commands(spec: TableSpec, row: RowSpec, arguments: tuple[str, ...], seeds: Sequence[int]) -> list[str]:
    """The shell commands that run a row with these seeds, one for each split."""
    if not seeds:
        return []
    program = ["python", "train.py", *(["-m"] if len(seeds) > 1 else [])]
    seed = f"seed={','.join(map(str, seeds))}"
    decodings = [[] if split == spec.split else [f"decode.split={split}"] for split in splits(spec, row, arguments)]
    return [shlex.join([*program, *arguments, *decoding, seed]) for decoding in decodings]
