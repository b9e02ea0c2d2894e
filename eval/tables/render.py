"""A filled table as Markdown, LaTeX, CSV or JSON.

Markdown and LaTeX print two lines per method: ours, and below it the paper's, so that figures to be
compared stand one under the other and the table fits a terminal. CSV is tidy, one line per row and
metric with full precision; JSON holds the same, nested. Both carry the exact integers of what the
other two print in M.
"""

import csv
import io
import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby
from typing import Any

from eval.tables.bootstrap import CONFIDENCE, RESAMPLES
from eval.tables.fill import Cell, Line, Statistic, TableData
from eval.tables.spec import BestPer, Better, Fact, FactColumn


@dataclass(frozen=True)
class Entry:
    """An entry of the printed table before markup."""

    text: str
    marks: str = ""  # letters of footnotes
    is_best: bool = False


class Kind(Enum):
    """What a printed line says of its row."""

    ours = "ours"
    interval = "interval"
    against = "against"
    paper = "paper"
    difference = "difference"


@dataclass(frozen=True)
class PrintedLine:
    """One line of the printed table."""

    line: Line
    kind: Kind
    entries: list[Entry]


def markdown(table: TableData) -> str:
    """A GitHub table with aligned columns, then notes and the commands that fill empty cells."""
    printed = [header(table), *(line.entries for block in blocks(table) for line in block)]
    entries = [[_markdown_entry(entry) for entry in line] for line in printed]
    widths = [max(map(len, column)) for column in zip(*entries, strict=True)]
    entries.insert(1, ["-" * width for width in widths])
    grid = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in entries]
    below = [
        textwrap.fill(f"- `{mark}` {text}" if mark else f"- {text}", 118, subsequent_indent="  ")
        for mark, text in notes(table)
    ]
    parts = [f"**{table.spec.title}**", caption(table), "\n".join(grid), "\n".join(below)]
    if table.commands:
        parts += ["Empty cells are filled by:", "\n".join(["```", *table.commands, "```"])]
    return "\n\n".join(parts) + "\n"


def latex(table: TableData) -> str:
    r"""A `table` float that needs booktabs and nothing else.

    The commands that fill empty cells follow as LaTeX comments.
    """
    columns = len(header(table))
    body = ["\n".join(_latex_line(printed.entries) for printed in block) for block in blocks(table)]
    below = [f"{_superscript(mark)} {_latex(text)}".lstrip() for mark, text in notes(table)]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(f'{table.spec.title}. {caption(table)}')}}}",
        rf"\label{{tab:{table.spec.name}}}",
        rf"\begin{{tabular}}{{@{{}}{'l' * columns}@{{}}}}",
        r"\toprule",
        _latex_line(header(table)),
        r"\midrule",
        "\n\\midrule\n".join(body),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        " \\\\\n".join(below),
        r"\end{minipage}",
        r"\end{table}",
        *(f"% {command}" for command in table.commands),
    ]
    return "\n".join(lines) + "\n"


def comma_separated(table: TableData) -> str:
    """One line per row and metric; values in the line's `unit`, an empty field for no value."""
    lines = []
    for row in _rows(table):
        cells = row.pop("cells")
        row |= {key: " ".join(map(str, row[key])) for key in ("runs", "seeds", "epochs")}
        lines += [row | {"metric": metric} | cell for metric, cell in cells.items()]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def json_text(table: TableData) -> str:
    """Everything that the other formats say, by row and metric; null for no value."""
    content = {
        "title": table.spec.title,
        "source": table.spec.source,
        "caption": caption(table),
        "rows": _rows(table),
        "notes": [{"mark": mark, "text": text} for mark, text in notes(table)],
        "missing": table.commands,
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[TableData], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": comma_separated,
    "json": json_text,
}


def caption(table: TableData) -> str:
    """Which setting the runs are of, in a sentence or two."""
    text = table.spec.profiles[table.profile].caption
    settings = f", with {' '.join(table.settings)}" if table.settings else ""
    state = "" if table.has_runs else " Nothing has been run yet."
    return f"{text[0].upper()}{text[1:]}{settings}.{state}"


def notes(table: TableData) -> list[tuple[str, str]]:
    """(mark, text) in reading order; the mark is empty for a note on the whole table."""
    spec = table.spec
    quoted = " (*: quoted there from prior work)" if any(row.quoted for row in spec.rows) else ""
    best = "per method and metric" if spec.best_per is BestPer.label else "per metric"
    general = [
        f"ours (n): mean ± {spec.deviation.value} standard deviation over n seeds, {spec.split} split; bold: our "
        f"best {best}; paper: {spec.source}{quoted}.",
        f"Scored by {spec.protocols[table.protocol]}.",
    ]
    general += [column.note for column in spec.show.values() if column.note]
    general += _interval_notes(table)
    general += [text for key, text in spec.notes.items() if key not in spec.marks]
    marked = [(mark, spec.notes[key]) for key, mark in spec.marks.items()]
    return [
        (mark, text.format(select_by=spec.select_by, select_split=spec.select_split))
        for mark, text in [("", text) for text in general] + marked
    ]


def _interval_notes(table: TableData) -> list[str]:
    if not any(cell.interval for line in table.lines for cell in line.cells.values()):
        return []
    text = (
        f"{CONFIDENCE:.0%} CI: where {CONFIDENCE:.0%} of {RESAMPLES} resamples of the test contexts lie (bootstrap; "
        "the seeds as they are)"
    )
    if table.baseline is not None:
        text += f"; - {table.baseline}: ours minus that row's, on the same resamples, bold where 0 lies outside"
    return [f"{text}."]


def _marks(table: TableData, notes: list[str]) -> str:
    return ",".join(sorted(table.spec.marks[note] for note in notes))


def header(table: TableData) -> list[Entry]:
    """The names of the columns: the method, its facts, whose line it is, the metrics."""
    arrows = {Better.higher: "↑", Better.lower: "↓"}
    return [
        Entry("Method"),
        *(Entry(column.label) for column in table.spec.show.values()),
        Entry(""),
        *(
            Entry(f"{column.label or name} {arrows[column.better]}", _marks(table, column.notes))
            for name, column in table.spec.columns.items()
        ),
    ]


def blocks(table: TableData) -> list[list[PrintedLine]]:
    """The printed lines, in blocks of rows that are compared with each other."""
    groups = [table.lines]
    if table.spec.best_per is BestPer.label:
        groups = [list(group) for _, group in groupby(table.lines, lambda line: line.row.label)]
    return [[printed for line in group for printed in _printed(table, line)] for group in groups]


def _printed(table: TableData, line: Line) -> list[PrintedLine]:
    """Ours, with its intervals, if the row is run here; the paper's if it has one. The first says the row's name."""
    lines = [(Kind.ours, _ours(table, line))] if line.overrides else []
    if any(cell.interval for cell in line.cells.values()):
        lines.append((Kind.interval, _below(table, f"{CONFIDENCE:.0%} CI", _interval, line)))
    if any(cell.against for cell in line.cells.values()):
        lines.append((Kind.against, _below(table, f"- {table.baseline}", _against, line)))
    lines += [(Kind.paper, _published(table, line))] if line.row.published else []
    if any(cell.difference is not None for cell in line.cells.values()):
        lines.append((Kind.difference, _below(table, "ours - paper", _difference, line)))
    first = Entry(line.row.label + "*" * line.row.quoted, _marks(table, line.row.notes))
    return [
        PrintedLine(line, kind, [Entry("") if place else first, *entries])
        for place, (kind, entries) in enumerate(lines)
    ]


def _ours(table: TableData, line: Line) -> list[Entry]:
    scores = []
    for name, column in table.spec.columns.items():
        scores.append(Entry(_score(line.cells[name].ours, column.digits), is_best=table.is_best(line, name)))
    facts = [Entry(_measured(line, fact, column)) for fact, column in table.spec.show.items()]
    return [*facts, Entry(f"ours ({len(line.records)})" if line.records else "ours"), *scores]


def _below(table: TableData, label: str, entry: Callable[[Cell, int], Entry], line: Line) -> list[Entry]:
    """A line that adds to ours, without repeating the facts of the row."""
    scores = [entry(line.cells[name], column.digits) for name, column in table.spec.columns.items()]
    return [*(Entry("") for _ in table.spec.show), Entry(label), *scores]


def _interval(cell: Cell, digits: int) -> Entry:
    found = cell.interval
    return Entry("-" if found is None else f"{found.low:.{digits}f}..{found.high:.{digits}f}")


def _difference(cell: Cell, digits: int) -> Entry:
    return Entry("-" if cell.difference is None else f"{cell.difference:+.{digits}f}")


def _against(cell: Cell, digits: int) -> Entry:
    found = cell.against
    if found is None:
        return Entry("-")
    text = f"{found.value:+.{digits}f} ({found.low:+.{digits}f}..{found.high:+.{digits}f})"
    return Entry(text, is_best=found.is_significant)


def _published(table: TableData, line: Line) -> list[Entry]:
    published = [cell.published for cell in line.cells.values()]
    scores = [Entry("-" if value is None else value.text) for value in published]
    return [*(Entry(_stated(line, fact)) for fact in table.spec.show), Entry("paper"), *scores]


def _measured(line: Line, fact: Fact, column: FactColumn) -> str:
    """What our line says about the row; its counts are those of the model that was run."""
    if fact is Fact.approx:
        return line.row.approx
    if fact is Fact.r:
        return str(line.row.r)
    if not line.records:
        return "-"
    cost = line.records[0].cost
    if fact is Fact.parameters:
        own = replace(column, kilo=column.quoted_kilo) if line.row.quoted else column
        return _amount(cost.trainable_parameters, own)
    if fact is Fact.model_macs:
        share = f"{cost.model_macs_per_token / cost.base_model_macs_per_token:.{column.digits}%}"
        return f"{1:.{column.digits}%}"[:-1] + f"/{share}" if line.row.mergeable else share
    macs = _amount(cost.macs_per_token, column)
    if line.row.mergeable:
        return f"{_amount(cost.base_macs_per_token, column)[:-1]}/{macs}"
    return macs


def _stated(line: Line, fact: Fact) -> str:
    """What the paper's line says about the row, without repeating our line above it."""
    if fact is Fact.parameters:
        return line.row.parameters
    if fact is Fact.macs:
        return line.row.macs
    if line.overrides or fact is Fact.model_macs:
        return ""
    return line.row.approx if fact is Fact.approx else str(line.row.r)


def _amount(value: int, column: FactColumn) -> str:
    """393216 with kilo = 1024 is '0.38M'; in K where M would not leave two figures; 0 is '0'."""
    if value == 0:
        return "0"
    mega = value / column.kilo**2
    if mega >= 10 ** (1 - column.digits):
        return f"{mega:.{column.digits}f}M"
    return f"{value / column.kilo:.{column.digits}f}K"


def _score(statistic: Statistic | None, digits: int) -> str:
    """As the paper prints it: '70.2±.3', without deviation for one seed, '-' for no value."""
    if statistic is None:
        return "-"
    mean = f"{statistic.mean:.{digits}f}"
    if statistic.deviation is None:
        return mean
    return f"{mean}±{statistic.deviation:.{digits}f}".replace("±0.", "±.")


def _rows(table: TableData) -> list[dict[str, Any]]:
    """The numbers of the table, for programs: full precision, exact counts, the runs behind them."""
    return [
        {
            "table": table.spec.name,
            "profile": table.profile,
            "method": line.row.label,
            "approx": line.row.approx,
            "r": line.row.r,
            "quoted": line.row.quoted,
            "trainable_parameters": line.records[0].cost.trainable_parameters if line.records else None,
            "macs_per_token": line.records[0].cost.macs_per_token if line.records else None,
            "model_macs_per_token": line.records[0].cost.model_macs_per_token if line.records else None,
            "base_model_macs_per_token": line.records[0].cost.base_model_macs_per_token if line.records else None,
            "published_parameters": line.row.parameters or None,
            "published_macs_per_token": line.row.macs or None,
            "runs": [record.run for record in line.records],
            "seeds": [record.seed for record in line.records],
            "epochs": [record.epoch for record in line.records],
            "split": table.spec.split,
            "protocol": table.protocol,
            "baseline": table.baseline,
            "cells": {
                name: {
                    "unit": column.unit,
                    "mean": cell.ours.mean if cell.ours else None,
                    "deviation": cell.ours.deviation if cell.ours else None,
                    "n": cell.ours.n if cell.ours else 0,
                    "published_mean": cell.published.mean if cell.published else None,
                    "published_deviation": cell.published.deviation if cell.published else None,
                    "difference": cell.difference,
                    "low": cell.interval.low if cell.interval else None,
                    "high": cell.interval.high if cell.interval else None,
                    "against": cell.against.value if cell.against else None,
                    "against_low": cell.against.low if cell.against else None,
                    "against_high": cell.against.high if cell.against else None,
                    "against_p": cell.against.p if cell.against else None,
                }
                for (name, column), cell in zip(table.spec.columns.items(), line.cells.values(), strict=True)
            },
        }
        for line in table.lines
    ]


def _markdown_entry(entry: Entry) -> str:
    text = f"**{entry.text}**" if entry.is_best else entry.text
    return f"{text} `{entry.marks}`" if entry.marks else text


def _latex_line(line: list[Entry]) -> str:
    return " & ".join(map(_latex_entry, line)) + r" \\"


def _latex_entry(entry: Entry) -> str:
    mean, _, deviation = entry.text.partition("±")
    text = rf"\textbf{{{_latex(mean)}}}" if entry.is_best else _latex(mean)
    if deviation:
        text += rf"$_{{\pm {deviation}}}$"
    return text + _superscript(entry.marks)


def _superscript(marks: str) -> str:
    return rf"\textsuperscript{{{marks}}}" if marks else ""


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
}


def _latex(text: str) -> str:
    r"""Plain text as LaTeX; 'FT^Top2' and '10^6' get superscripts."""
    escaped = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"\^(\w+(?:,\w+)*)", r"\\textsuperscript{\1}", escaped)
