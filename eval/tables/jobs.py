"""The runs of a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval.tables.fill import decodings, experiment_of
from eval.tables.spec import overrides, read, seeds
from loda.errors import LodaError
from loda.lab.config import Experiment


@dataclass(frozen=True)
class Job:
    """One run of a table: its experiment for each split that it is scored on, the first being the reported one."""

    label: str
    overrides: list[str]
    experiments: list[Experiment]

    @property
    def experiment(self) -> Experiment:
        """The run on the reported split."""
        return self.experiments[0]


def jobs(table: str, profile: str, settings: Sequence[str]) -> list[Job]:
    """Every run of a table, row by row, seed by seed; `settings` are overrides for all of them."""
    spec = read(table)
    if profile not in spec.profiles:
        raise LodaError(f"unknown profile {profile!r} of {table}; choose one of {', '.join(spec.profiles)}")
    found = []
    for row in spec.rows:
        arguments = overrides(row, spec.profiles[profile])
        for seed in seeds(row, spec.profiles[profile]):
            label = f"{row.label} (r={row.r})" if row.r else row.label
            common = [*arguments, *settings]
            composed = [experiment_of((*common, *decoding)) for decoding in decodings(spec, common)]
            experiments = [replace(experiment, seed=seed) for experiment in composed]
            found.append(Job(f"{label}, seed {seed}", [*common, f"seed={seed}"], experiments))
    return found
