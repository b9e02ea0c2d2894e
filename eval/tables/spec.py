"""What `configs/table/*.yaml` says: rows, columns, published values, and the runs that fill them.

A table has one list of rows and several profiles. A row's `run` is the list of Hydra overrides that
select its experiment; a profile (the paper's setting, the toy world) puts its base overrides before
them, exchanges single ones (`replace`) and leaves rows out (`without`), so that no row is written
twice. Published values stay in the file as the paper prints them, "70.2±.3 8.83±.03 ...", one per
column and '-' for none; here they become numbers in the paper's units.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from pathlib import Path
from string import ascii_lowercase
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loda.errors import LodaError

T = TypeVar("T")

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "table"


class Better(Enum):
    """Which end of a metric is the good one."""

    higher = "higher"
    lower = "lower"


class BestPer(Enum):
    """Among which rows the best value is printed bold."""

    table = "table"
    label = "label"


class Deviation(Enum):
    """What stands behind the ±: sqrt(sum (x - mean)^2 / (n - 1)), or with n below."""

    sample = "sample"
    population = "population"


class Fact(Enum):
    """What a column can say about a row instead of scoring it."""

    approx = "approx"
    r = "r"
    macs = "macs"
    model_macs = "model_macs"
    parameters = "parameters"


class FigureKind(Enum):
    """The module of `eval/figures` that shows a table."""

    curves = "curves"
    tradeoff = "tradeoff"


@dataclass(frozen=True)
class FactColumn:
    """How a fact is printed: counts in M = kilo^2 or K = kilo with `digits` decimals; `note` stands below the table.

    Of a row that the paper quotes from prior work the trained parameters are printed with `quoted_kilo`.
    """

    label: str
    kilo: int = 1000
    quoted_kilo: int = 1000
    digits: int = 0
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A metric: a score times `scale` is in `unit` and is printed with `digits` decimals.

    With `round_each` the score of every seed is rounded to so many decimals before the mean is taken, for a paper that
    read its scores off a print.
    """

    unit: str
    digits: int
    scale: float = 1.0
    round_each: int | None = None
    better: Better = Better.higher
    label: str = ""  # the name of the score if empty
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Profile:
    """One setting in which the rows can be run."""

    base: list[str]
    seeds: list[int]
    caption: str
    replace: dict[str, list[str]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    quoted_seeds: list[int] = field(default_factory=list)  # for the rows that the paper quotes; empty: `seeds`
    comparable: bool = True  # whether a difference to the published value means anything


@dataclass(frozen=True)
class Published:
    """A value of the paper, in its units; `deviation` is None where it prints none."""

    mean: float
    deviation: float | None
    text: str


@dataclass(frozen=True)
class Row:
    """A line of the paper's table, and the overrides that run it (none: not implemented)."""

    label: str
    run: list[str] = field(default_factory=list)
    quoted: bool = False  # the paper took the numbers from prior work
    mergeable: bool = False  # the MACs are printed merged / unmerged
    trained: bool = True  # if not, all seeds give the same and one is enough
    approx: str = "No"
    r: int | None = None
    parameters: str = ""
    macs: str = ""
    published: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def values(self) -> list[Published | None]:
        """The published values, one per column of the table; [] for a row the paper lacks."""
        return [_published(text) for text in self.published.split()]

    @property
    def published_macs(self) -> float | None:
        """The published MACs per token, those of the merged model where two are printed; None for none."""
        return float(self.macs.removesuffix("M").split("/")[0]) * 1e6 if self.macs else None


@dataclass(frozen=True)
class TableSpec:
    """One of the paper's tables.

    Its records are those of `split`, scored by one of `protocols`: that of the profile's data set unless
    `dataset.protocol` chooses another. Of the epochs that a run kept, it takes the one with the best `select_by` on
    `select_split`.
    """

    name: str
    title: str
    source: str
    protocols: dict[str, str]  # and what each is, in words; the first is the paper's
    split: str
    select_by: str
    select_split: str
    deviation: Deviation
    show: dict[Fact, FactColumn]
    best_per: BestPer
    columns: dict[str, Column]  # by the name of the score
    profiles: dict[str, Profile]
    rows: list[Row]
    figure: FigureKind | None = None
    notes: dict[str, str] = field(default_factory=dict)  # one that no row or column names: general

    def __post_init__(self) -> None:
        """Refuse what would otherwise come out as a shifted or unexplained cell."""
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
    def papers_protocol(self) -> str:
        """The protocol that the published values were scored by."""
        return next(iter(self.protocols))

    @property
    def marks(self) -> dict[str, str]:
        """The letter of every note that a column or row names, in order of appearance."""
        named = [key for column in self.columns.values() for key in column.notes]
        named += [key for row in self.rows for key in row.notes]
        keys = list(dict.fromkeys(named))
        if len(keys) > len(ascii_lowercase):
            raise LodaError(f"{self.name} marks {len(keys)} notes, there are {len(ascii_lowercase)} letters; join some")
        return dict(zip(keys, ascii_lowercase[: len(keys)], strict=True))


def overrides(row: Row, profile: Profile) -> list[str]:
    """The Hydra overrides, without seed, that run `row` in `profile`; [] if it is not run there."""
    if not row.run or any(override in profile.without for override in row.run):
        return []
    own = [profile.replace.get(override, [override]) for override in row.run]
    return [*profile.base, *chain.from_iterable(own)]


def seeds(row: Row, profile: Profile) -> list[int]:
    """The seeds that `row` is run with in `profile`; [] if it is not run there."""
    if not overrides(row, profile):
        return []
    own = profile.quoted_seeds if row.quoted and profile.quoted_seeds else profile.seeds
    return own if row.trained else own[:1]


def names() -> list[str]:
    """All tables in configs/table."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def read(name: str) -> TableSpec:
    """Read `configs/table/<name>.yaml`.

    Raises:
        LodaError: no such table, or an unknown, missing or mistyped field in its file.
    """
    if name not in names():
        raise LodaError(f"unknown table {name!r}; choose one of {', '.join(names())}")
    content = _yaml(name)
    columns = content.pop("columns")
    if isinstance(columns, str):  # the same columns as that other table
        columns = _yaml(columns)["columns"]
    try:
        return TableSpec(
            name=name,
            columns={key: _typed(Column, node) for key, node in columns.items()},
            profiles={key: _typed(Profile, node) for key, node in content.pop("profiles").items()},
            rows=[_typed(Row, node) for node in content.pop("rows")],
            show={Fact(key): _typed(FactColumn, node) for key, node in content.pop("show").items()},
            deviation=Deviation(content.pop("deviation")),
            best_per=BestPer(content.pop("best_per")),
            figure=FigureKind(content.pop("figure")) if "figure" in content else None,
            **content,
        )
    except LodaError:
        raise
    except (OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
        raise LodaError(f"configs/table/{name}.yaml: {error}; correct that field") from error


def _typed(schema: type[T], node: dict[str, Any]) -> T:
    """`node` as a `schema`, with OmegaConf's checks of names and types.

    One level at a time: OmegaConf cannot merge into a frozen dataclass within another.
    """
    return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node)))


def _yaml(name: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    return cast(dict[str, Any], content)


def _published(text: str) -> Published | None:
    """'70.2±.3' -> mean 70.2, deviation 0.3; '68.2' -> no deviation; '-' -> None."""
    if text == "-":
        return None
    match = re.fullmatch(r"(\d+\.\d+)(?:±(\d*\.\d+))?", text)
    if match is None:
        raise LodaError(f"published value {text!r} is not of the form 70.2±.3, 70.2 or -")
    mean, deviation = match.groups()
    return Published(float(mean), None if deviation is None else float(deviation), text)
