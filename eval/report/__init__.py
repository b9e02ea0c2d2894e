"""Everything that an outputs folder holds, as one HTML file that opens from disk and loads nothing.

Every table with published values, differences and the command for each missing cell; the figures, drawn anew and saved
beside the report as PNG and PDF; the losses of training; where the numbers come from; all scores. The page itself is
`eval/report.html.jinja`, which escapes whatever it is given.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from eval.figures import curves, energy, losses, tradeoff
from eval.figures.series import axis_label
from eval.figures.style import save, svg
from eval.report.origins import Counts, hashes, provenances
from eval.results import Record, collect
from eval.tables.fill import TableData, build
from eval.tables.render import Entry, PrintedLine, blocks, caption, header, notes
from eval.tables.spec import FigureKind, Row
from loda.atomic import write_text
from loda.lab.provenance import provenance
from loda.lab.run import Outputs
from loda.sealed import read_json

TEMPLATE = "report.html.jinja"
KINDS = {FigureKind.curves: curves, FigureKind.tradeoff: tradeoff}


@dataclass(frozen=True)
class Picture:
    """A figure: the name of its files in `figures/`, what it shows, and itself as a `data:` address."""

    name: str
    text: str
    source: str


@dataclass(frozen=True)
class TableSection:
    """A table as it is printed, its figures, and the losses of its runs."""

    data: TableData
    caption: str
    header: list[Entry]
    blocks: list[list[PrintedLine]]
    notes: list[tuple[str, str]]
    pictures: list[Picture]


@dataclass(frozen=True)
class Scores:
    """All records of one protocol, which have the same metrics."""

    protocol: str
    metrics: list[str]
    records: list[Record]


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error, the overrides that start it again, and what it said."""

    run: str
    overrides: str
    message: str


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    finished: str
    commit: str | None
    has_changes: bool
    tables: list[TableSection]
    energies: list[Picture]
    scores: list[Scores]
    failures: list[Failure]
    provenances: dict[str, Counts]  # by stage
    hashes: Counts
    runs: int
    seconds: float  # spent on the training of all runs


def write(tables: Sequence[str], profile: str, root: str | Path, settings: Sequence[str] = ()) -> Path:
    """Write `report.html` and `figures/*.{png,pdf}` below the outputs folder `root`; returns the report's path.

    Args:
        tables: names of files in configs/table.
        profile: of all tables, or "auto" as in `eval.tables.fill.build`.
        root: the outputs folder.
        settings: Hydra overrides that all runs were started with.

    Raises:
        LodaError: what `build` refuses, or a file of Figure 2 that is none.
    """
    outputs = Outputs(Path(root))
    filled = [build(name, profile, root, settings) for name in tables]
    write_text(outputs.report, render(gather(filled, outputs)))
    return outputs.report


def gather(tables: Iterable[TableData], outputs: Outputs) -> Report:
    """Read what the outputs folder holds, and draw and save the figures."""
    records = collect(outputs.root)
    now = provenance(0, torch.device("cpu"))
    trainings = {record.run: record.training for record in records if record.training is not None}
    return Report(
        finished=now["finished"],
        commit=now["commit"],
        has_changes=bool(now["uncommitted_changes"]),
        tables=[_section(table, outputs) for table in tables],
        energies=[_energy(path, outputs) for path in sorted(outputs.figures.glob("figure2-*.csv"))],
        scores=_by_protocol(records),
        failures=[_failure(path) for path in outputs.failures],
        provenances=provenances(records),
        hashes=hashes(records),
        runs=len({record.run for record in records}),
        seconds=sum(training["seconds"] for training in trainings.values()),
    )


def render(report: Report) -> str:
    """The page."""
    folder = Path(__file__).resolve().parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"superscript": superscript, "heading": heading}
    return environment.get_template(TEMPLATE).render(report=report)


def superscript(text: str) -> Markup:
    """'FT^Top2' and '10^6' with their superscripts, everything else escaped."""
    return Markup(re.sub(r"\^(\w+(?:,\w+)*)", r"<sup>\1</sup>", str(escape(text))))


def heading(name: str) -> str:
    """'table1' as 'Table 1'."""
    return re.sub(r"(?<=\D)(?=\d)", " ", name, count=1).capitalize()


def _section(table: TableData, outputs: Outputs) -> TableSection:
    return TableSection(
        table,
        caption(table),
        header(table),
        blocks(table),
        notes(table),
        [*_scores(table, outputs), *_losses(table, outputs)],
    )


def _scores(table: TableData, outputs: Outputs) -> list[Picture]:
    """The table's figure, one for each metric that has a value."""
    if table.spec.figure is None:
        return []
    kind = KINDS[table.spec.figure]
    pictures = []
    for metric, column in table.spec.columns.items():
        if data := kind.data(table, metric):
            name = f"{table.spec.name}-{table.profile}-{metric}"
            drawn = kind.draw(data, axis_label(table, metric), _warning(table))
            text = f"{column.label or metric}: mean and {table.spec.deviation.value} standard deviation over seeds"
            pictures.append(_picture(drawn, name, text, outputs))
    return pictures


def _losses(table: TableData, outputs: Outputs) -> list[Picture]:
    """The training losses of the runs behind the table; none where nothing was trained."""
    runs = [
        losses.read(outputs.run_named(record.run).journal, line.row.label, _variant(line.row))
        for line in table.lines
        for record in line.records
        if record.training is not None
    ]
    if not runs:
        return []
    name = f"{table.spec.name}-{table.profile}-losses"
    return [
        _picture(
            losses.draw(runs, _warning(table)),
            name,
            "Training losses with their label smoothing, one line for each run",
            outputs,
        )
    ]


def _variant(row: Row) -> str:
    if row.r is not None:
        return f"r = {row.r}"
    return "not approximated" if row.approx == "No" else row.approx


def _warning(table: TableData) -> str:
    """What a figure that is taken out of the report must not lose."""
    return "" if table.is_comparable else f"{table.profile} profile, not comparable with the paper"


def _energy(path: Path, outputs: Outputs) -> Picture:
    curves_of_weight = energy.read_csv(path)
    drawn = energy.draw(curves_of_weight, energy.title_of(path.stem))
    return _picture(drawn, path.stem, energy.summary(curves_of_weight), outputs)


def _picture(drawn: Figure, name: str, text: str, outputs: Outputs) -> Picture:
    save(drawn, outputs.figures, name)
    content = base64.b64encode(svg(drawn).encode()).decode("ascii")
    return Picture(name, text, f"data:image/svg+xml;base64,{content}")


def _by_protocol(records: Sequence[Record]) -> list[Scores]:
    ordered = sorted(records, key=lambda record: record.protocol)  # stable: within a protocol as collected
    found = []
    for protocol, group in groupby(ordered, key=lambda record: record.protocol):
        members = list(group)
        metrics = dict.fromkeys(name for record in members for name in record.scores)
        found.append(Scores(protocol, list(metrics), members))
    return found


def _failure(path: Path) -> Failure:
    content = read_json(path)
    return Failure(path.parent.name, content["overrides"], content["message"])
