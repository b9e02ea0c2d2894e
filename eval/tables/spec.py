"""What `configs/table/*.yaml` says: rows, columns, published values, and the runs that fill them.

A table has one list of rows and several profiles. The `run` of a row is a list of Hydra overrides. A profile (the
paper's setting, the toy world) puts its base overrides before them, replaces some and leaves rows out. Published values
are typed as the paper prints them, "70.2±.3 8.83±.03 ...", one per column, '-' for none.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loda.errors import LodaError
from loda.lab.config import Split
from loda.settings import Names, load, settings

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "table"

Fact = Literal["approx", "r", "macs", "model_macs", "parameters"]
"""What a table can print of a row besides its scores."""


@settings
class FactColumn:
    """How a fact is printed: counts in M = kilo^2 or K = kilo with `digits` decimals, with a note below the table."""

    label: str
    kilo: int = 1000
    digits: int = 0
    note: str = ""


@settings
class Column:
    """A metric: a score times `scale` is in `unit` and is printed with `digits` decimals."""

    unit: str
    digits: int
    scale: float = 1.0
    round_each: int | None = None  # decimals of each seed's score before the mean, where the paper averaged a print
    better: Literal["higher", "lower"] = "higher"
    label: str = ""  # empty: the name of the score
    notes: Names = ()

    @property
    def arrow(self) -> str:
        return "↑" if self.better == "higher" else "↓"


@settings
class Profile:
    """One setting in which the rows can be run."""

    base: Names
    seeds: tuple[int, ...]
    caption: str
    replace: dict[str, Names] = field(default_factory=dict)
    without: Names = ()
    quoted_seeds: tuple[int, ...] = ()  # for the rows that the paper quotes; empty: `seeds`
    comparable: bool = True  # whether a difference to the published value means anything
    title_prefix: str = ""  # stands before the title wherever that is shown; needed if not comparable

    def __post_init__(self) -> None:
        if not self.comparable and not self.title_prefix:
            raise LodaError("a profile with comparable: false needs a title_prefix that says so")


@dataclass(frozen=True)
class Published:
    """A value of the paper in its units, as numbers and as printed."""

    mean: float
    deviation: float | None
    text: str


@settings
class RowSpec:
    """A row of the paper's table, and the overrides that run it."""

    label: str
    run: Names
    quoted: bool = False  # the paper took the numbers from prior work
    mergeable: bool = False  # the MACs are printed merged / unmerged
    trained: bool = True  # if not, all seeds give the same and one is enough
    seeds: tuple[int, ...] = ()  # empty: those of the profile
    approx: str = "No"
    r: int | None = None
    parameters: str = ""
    macs: str = ""
    published: str = ""
    notes: Names = ()

    @property
    def values(self) -> list[Published | None]:
        """The published values, one per column; [] for a row that the paper does not have."""
        return [_published(text) for text in self.published.split()]

    @property
    def published_macs(self) -> float | None:
        """The published MACs per token, merged where the paper prints both."""
        return float(self.macs.removesuffix("M").split("/")[0]) * 1e6 if self.macs else None


@settings
class TableSpec:
    """A table of scores on `split`, each run at the epoch with the best `select_by` on `select_split`."""

    name: str
    title: str
    source: str
    scorer: str
    scored_by: str  # the scorer in words
    split: Split
    select_by: str
    select_split: Split
    show: dict[Fact, FactColumn]
    best_per: Literal["table", "label"]  # among which rows the best value is bold
    columns: dict[str, Column]  # by the name of the score
    profiles: dict[str, Profile]
    rows: tuple[RowSpec, ...]
    figure: Literal["curves", "tradeoff"] | None = None
    notes: dict[str, str] = field(default_factory=dict)  # one that no row or column names is about the whole table

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.values) not in (0, len(self.columns)):
                raise LodaError(
                    f"{self.name}: row {row.label!r} publishes {len(row.values)} values for "
                    f"{len(self.columns)} columns; write one per column, '-' for none"
                )
        for key in self.marks:
            if key not in self.notes:
                raise LodaError(f"{self.name}: note {key!r} has no text; add it under `notes:`")
        if self.select_by not in self.columns:
            raise LodaError(
                f"{self.name}: select_by={self.select_by!r} is no column; choose one of {', '.join(self.columns)}"
            )

    @property
    def marks(self) -> dict[str, str]:
        """The letter of every note that a column or row names, in order of appearance."""
        named: Iterable[Column | RowSpec] = (*self.columns.values(), *self.rows)
        return dict(zip(dict.fromkeys(key for one in named for key in one.notes), ascii_lowercase, strict=False))

    def profile(self, name: str) -> Profile:
        if name not in self.profiles:
            raise LodaError(f"unknown profile {name!r} of {self.name}; choose one of {', '.join(self.profiles)}")
        return self.profiles[name]

    def rows_of(self, labels: Sequence[str] | None) -> list[RowSpec]:
        """The rows with these labels; for None all."""
        known = [row.label for row in self.rows]
        for label in labels or ():
            if label not in known:
                raise LodaError(f"{self.name} has no row {label!r}; choose among {', '.join(dict.fromkeys(known))}")
        return [row for row in self.rows if labels is None or row.label in labels]


def overrides(row: RowSpec, profile: Profile, settings: Sequence[str] = ()) -> tuple[str, ...]:
    """The Hydra overrides, without seed, that run `row` in `profile`; () if it is not run there. `settings` win."""
    if any(override in profile.without for override in row.run):
        return ()
    own = chain.from_iterable(profile.replace.get(each, (each,)) for each in row.run)
    return (*profile.base, *own, *settings)


def seeds(row: RowSpec, profile: Profile) -> tuple[int, ...]:
    """The seeds that `row` is run with in `profile`; () if it is not run there."""
    if not overrides(row, profile):
        return ()
    own = row.seeds or (profile.quoted_seeds if row.quoted and profile.quoted_seeds else profile.seeds)
    return own if row.trained else own[:1]


def names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def read(name: str) -> TableSpec:
    if name not in names():
        raise LodaError(f"unknown table {name!r}; choose one of {', '.join(names())}")
    content = _yaml(name)
    if isinstance(content.get("columns"), str):  # the columns of another table
        content["columns"] = _yaml(content["columns"])["columns"]
    return load(TableSpec, {"name": name, **content}, f"configs/table/{name}.yaml")


def _yaml(name: str) -> dict[str, Any]:
    path = CONFIGS / f"{name}.yaml"
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))
    except (OmegaConfBaseException, ValueError) as error:
        raise LodaError(f"{path}: {error}; correct the file") from error


def _published(text: str) -> Published | None:
    """'70.2±.3' -> mean 70.2, deviation 0.3; '68.2' -> no deviation; '-' -> None."""
    if text == "-":
        return None
    match = re.fullmatch(r"(\d+\.\d+)(?:±(\d*\.\d+))?", text)
    if match is None:
        raise LodaError(f"published value {text!r} is not of the form 70.2±.3, 70.2 or -")
    mean, deviation = match.groups()
    return Published(float(mean), None if deviation is None else float(deviation), text)
