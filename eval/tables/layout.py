"""The lines of a printed table before markup, for Markdown, LaTeX and the report.

A row has two lines, ours and the paper's, so that numbers to be compared stand one under the other and the table fits a
terminal. Intervals and differences are further lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

from eval.tables.bootstrap import CONFIDENCE, RESAMPLES
from eval.tables.fill import Cell, FilledRow, FilledTable, Statistic
from eval.tables.spec import Fact, FactColumn


@dataclass(frozen=True)
class Entry:
    text: str
    marks: str = ""  # letters of footnotes
    is_best: bool = False


Kind = Literal["ours", "interval", "against", "p", "paper", "difference"]


@dataclass(frozen=True)
class PrintedLine:
    row: FilledRow
    kind: Kind
    entries: list[Entry]


def caption(table: FilledTable) -> str:
    text = table.spec.profiles[table.profile].caption
    settings = f", with {' '.join(table.settings)}" if table.settings else ""
    state = "" if table.has_runs else " Nothing has been run yet."
    return f"{text[0].upper()}{text[1:]}{settings}.{state}"


def notes(table: FilledTable) -> list[tuple[str, str]]:
    """(mark, text) in reading order; the mark is empty for a note on the whole table."""
    spec = table.spec
    quoted = " (*: quoted there from prior work)" if any(row.quoted for row in spec.rows) else ""
    best = "of each method, per metric" if spec.best_per == "label" else "per metric"
    general = [
        f"ours (n): mean ± sample standard deviation over n seeds, {spec.split} split; paper: {spec.source}"
        f"{quoted}; bold: the best {best}, ours among ours and the paper's among the published values.",
        f"Scored by {spec.scored_by}.",
    ]
    general += [column.note for column in spec.show.values() if column.note]
    general += _interval_notes(table)
    general += [text for key, text in spec.notes.items() if key not in spec.marks]
    marked = [(mark, spec.notes[key]) for key, mark in spec.marks.items()]
    return [
        (mark, text.format(select_by=spec.select_by, select_split=spec.select_split))
        for mark, text in [("", text) for text in general] + marked
    ]


def _interval_notes(table: FilledTable) -> list[str]:
    if not any(cell.interval for row in table.rows for cell in row.cells.values()):
        return []
    found = [
        f"{CONFIDENCE:.0%} CI: of the mean, over other test contexts ({RESAMPLES} resamples) and other seeds "
        "(Student's t)."
    ]
    if table.baseline is not None:
        of_r = " at the same r" if any(row.spec.r is not None for row in table.rows) else ""
        found.append(
            f"- {table.baseline}: ours minus that row's{of_r}, on the same resamples; bold where the interval leaves "
            f"out 0, p < {1 - CONFIDENCE:.2f}, each value by itself: where nothing differs, one in "
            f"{1 / (1 - CONFIDENCE):.0f} is bold."
        )
    if any(row.is_of_one_seed for row in table.rows):
        found.append(
            "Of one seed, ours (1), the interval covers the test contexts only and understates the uncertainty. So "
            "does that of a difference with one seed on a side: its bold ignores that seed."
        )
    return found


def header(table: FilledTable) -> list[Entry]:
    return [
        Entry("Method"),
        *(Entry(column.label) for column in table.spec.show.values()),
        Entry(""),
        *(
            Entry(f"{column.label or name} {column.arrow}", _marks(table, column.notes))
            for name, column in table.spec.columns.items()
        ),
    ]


def blocks(table: FilledTable) -> list[list[PrintedLine]]:
    """The printed lines, in blocks of rows that are compared with each other."""
    groups = [table.rows]
    if table.spec.best_per == "label":
        groups = [list(group) for _, group in groupby(table.rows, lambda row: row.spec.label)]
    return [[line for row in group for line in _printed(table, row)] for group in groups]


def _printed(table: FilledTable, row: FilledRow) -> list[PrintedLine]:
    """Our line if the row is run here, then the lines that say something; the first has the row's name."""
    labels: dict[Kind, str] = {
        "ours": f"ours ({len(row.records)})" if row.records else "ours",
        "interval": f"{CONFIDENCE:.0%} CI",
        "against": f"- {table.baseline}",
        "p": "p",
        "paper": "paper",
        "difference": "ours - paper",
    }
    name = Entry(row.spec.label + "*" * row.spec.quoted, _marks(table, row.spec.notes))
    cells = {metric: _texts(cell, table.spec.columns[metric].digits) for metric, cell in row.cells.items()}
    lines: list[PrintedLine] = []
    for kind, label in labels.items():
        if any(texts[kind] for texts in cells.values()) or (kind == "ours" and row.overrides):
            facts = [Entry(_fact(row, kind, fact, column)) for fact, column in table.spec.show.items()]
            scores = [
                Entry(texts[kind] or "-", is_best=_is_bold(table, row, kind, metric)) for metric, texts in cells.items()
            ]
            lines.append(PrintedLine(row, kind, [Entry("") if lines else name, *facts, Entry(label), *scores]))
    return lines


def _marks(table: FilledTable, notes: Sequence[str]) -> str:
    return ",".join(sorted(table.spec.marks[note] for note in notes))


def _texts(cell: Cell, digits: int) -> dict[Kind, str]:
    """What each kind of line says of a cell, in the order of the lines; '' for nothing."""
    ours, interval, against = cell.ours, cell.interval, cell.against
    signed = partial(_signed, digits=digits)
    return {
        "ours": _statistic(ours, digits) if ours else "",
        "interval": f"{interval.low:z.{digits}f}..{interval.high:z.{digits}f}" if interval else "",
        "against": f"{signed(against.value)} ({signed(against.low)}..{signed(against.high)})" if against else "",
        "p": f"{against.p:.3f}" if against else "",
        "paper": cell.published.text if cell.published else "",
        "difference": "" if cell.difference is None else signed(cell.difference),
    }


def _signed(value: float, digits: int) -> str:
    """With a sign, unless it rounds to 0: '-0.0' would say more than its digits do."""
    text = f"{value:+z.{digits}f}"
    return text if float(text) else text.removeprefix("+")


def _statistic(ours: Statistic, digits: int) -> str:
    """As the paper prints it: '70.2±.3'."""
    deviation = "" if ours.deviation is None else f"±{ours.deviation:.{digits}f}".replace("±0.", "±.")
    return f"{ours.mean:z.{digits}f}{deviation}"


def _is_bold(table: FilledTable, row: FilledRow, kind: Kind, metric: str) -> bool:
    against = row.cells[metric].against
    if kind == "against":
        return against is not None and against.is_significant
    if kind == "ours":
        return table.is_best(row, metric, "ours")
    return kind == "paper" and table.is_best(row, metric, "published")


def _fact(row: FilledRow, kind: Kind, fact: Fact, column: FactColumn) -> str:
    """Our line says what our model has; the paper's line says what it states and does not repeat ours."""
    settings = {"approx": row.spec.approx, "r": "-" if row.spec.r is None else str(row.spec.r)}
    stated = {"parameters": row.spec.parameters, "macs": row.spec.macs}
    if kind == "ours":
        return settings[fact] if fact in settings else _amounts(row, fact, column)
    if kind == "paper":
        return stated.get(fact, "") if row.overrides else (stated | settings).get(fact, "")
    return ""


def _amounts(row: FilledRow, fact: Fact, column: FactColumn) -> str:
    cost, digits = row.cost, column.digits
    if cost is None:
        return "-"
    if fact == "parameters":  # prior work counts in 10^6 in every table
        return _amount(cost.trainable_parameters, 1000 if row.spec.quoted else column.kilo, digits)
    if fact == "model_macs":
        share = f"{cost.model_share:.{digits}%}"
        return f"{100:.{digits}f}/{share}" if row.spec.mergeable else share
    macs = _amount(cost.macs_per_token, column.kilo, digits)
    merged = _amount(cost.base_macs_per_token, column.kilo, digits)
    return f"{merged[:-1]}/{macs}" if row.spec.mergeable else macs


def _amount(value: int, kilo: int, digits: int) -> str:
    """393216 with kilo = 1024 is '0.38M'; in K where M would not leave two figures; 0 is '0'."""
    if value == 0:
        return "0"
    mega = value / kilo**2
    return f"{mega:.{digits}f}M" if mega >= 10 ** (1 - digits) else f"{value / kilo:.{digits}f}K"
