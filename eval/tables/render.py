"""A filled table as Markdown, LaTeX, CSV or JSON.

CSV has one line per row and metric; JSON nests the metrics. Both have full precision, and exact integers where the
other two print M.
"""

import json
import re
import textwrap
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from eval.tables.fill import Cell, FilledTable
from eval.tables.layout import Entry, blocks, caption, header, notes
from loda.atomic import write_text
from loda.lab.run import Outputs


def write(table: FilledTable, outputs: str | Path = "outputs") -> list[Path]:
    """Write `tables/<name>.{md,tex,csv,json}` below `outputs`; returns the paths."""
    folder = Outputs(Path(outputs)).tables
    paths = [folder / f"{table.spec.name}.{suffix}" for suffix in FORMATS]
    for path, text in zip(paths, FORMATS.values(), strict=True):
        write_text(path, text(table))
    return paths


def markdown(table: FilledTable) -> str:
    """A GitHub table, then notes and the commands that fill empty cells."""
    grid = _frame(table, _markdown).to_markdown(index=False, tablefmt="github", disable_numparse=True)
    below = [
        textwrap.fill(f"- `{mark}` {text}" if mark else f"- {text}", 118, subsequent_indent="  ")
        for mark, text in notes(table)
    ]
    parts = [f"**{table.title}**", caption(table), grid, "\n".join(below)]
    if table.commands:
        parts += ["Empty cells are filled by:", "\n".join(["```", *table.commands, "```"])]
    return "\n\n".join(parts) + "\n"


def latex(table: FilledTable) -> str:
    """A `table` float that needs booktabs; the commands that fill empty cells follow as comments."""
    grid = _frame(table, _latex)
    starts = [len(block) for block in blocks(table)][:-1]
    for start in accumulate(starts):  # pandas has no rule between rows
        grid.iloc[start, 0] = "\\midrule\n" + grid.iloc[start, 0]
    body = grid.to_latex(index=False, escape=False, column_format=f"@{{}}{'l' * len(grid.columns)}@{{}}").rstrip()
    below = [f"{_superscript(mark)} {_escape(text)}".lstrip() for mark, text in notes(table)]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(f'{table.title}. {caption(table)}')}}}",
        rf"\label{{tab:{table.spec.name}}}",
        body,
        "",
        r"\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        " \\\\\n".join(below),
        r"\end{minipage}",
        r"\end{table}",
        *(f"% {command}" for command in table.commands),
    ]
    return "\n".join(lines) + "\n"


def comma_separated(table: FilledTable) -> str:
    """One line per row and metric; values in the `unit` of the line, an empty field for no value."""
    lines = []
    for row in _rows(table):
        cells = row.pop("cells")
        row |= {key: " ".join(map(str, row[key])) for key in ("runs", "seeds")}
        row["epochs"] = " ".join(f"{epoch:g}" for epoch in row["epochs"])
        lines += [{"title": table.title} | row | {"metric": metric} | cell for metric, cell in cells.items()]
    text: str = pd.DataFrame(lines, dtype=object).to_csv(index=False, lineterminator="\n")
    return text


def json_text(table: FilledTable) -> str:
    content = {
        "title": table.title,
        "source": table.spec.source,
        "caption": caption(table),
        "rows": _rows(table),
        "notes": [{"mark": mark, "text": text} for mark, text in notes(table)],
        "missing": table.commands,
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[FilledTable], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": comma_separated,
    "json": json_text,
}

COSTS = ("trainable_parameters", "macs_per_token", "model_macs_per_token", "base_model_macs_per_token")


def _rows(table: FilledTable) -> list[dict[str, Any]]:
    return [
        {
            "table": table.spec.name,
            "profile": table.profile,
            "method": row.spec.label,
            "approx": row.spec.approx,
            "r": row.spec.r,
            "quoted": row.spec.quoted,
            **{name: getattr(row.cost, name, None) for name in COSTS},
            "published_parameters": row.spec.parameters or None,
            "published_macs_per_token": row.spec.macs or None,
            "runs": [record.run for record in row.records],
            "seeds": [record.seed for record in row.records],
            "epochs": [record.epoch for record in row.records],
            "split": table.spec.split,
            "scorer": table.spec.scorer,
            "baseline": table.baseline,
            "cells": {name: {"unit": table.spec.columns[name].unit, **_cell(cell)} for name, cell in row.cells.items()},
        }
        for row in table.rows
    ]


def _cell(cell: Cell) -> dict[str, float | None]:
    return {
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


def _frame(table: FilledTable, text: Callable[[Entry], str]) -> pd.DataFrame:
    lines = [line.entries for block in blocks(table) for line in block]
    return pd.DataFrame([list(map(text, line)) for line in lines], columns=list(map(text, header(table))))


def _markdown(entry: Entry) -> str:
    text = f"**{entry.text}**" if entry.is_best else entry.text
    return f"{text} `{entry.marks}`" if entry.marks else text


def _latex(entry: Entry) -> str:
    mean, _, deviation = entry.text.partition("±")
    text = rf"\textbf{{{_escape(mean)}}}" if entry.is_best else _escape(mean)
    if deviation:
        text += rf"$_{{\pm {deviation}}}$"
    return text + _superscript(entry.marks)


def _superscript(marks: str) -> str:
    return rf"\textsuperscript{{{marks}}}" if marks else ""


ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: rf"\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "±": r"$\pm$",
    }
)


def _escape(text: str) -> str:
    """Plain text as LaTeX; 'FT^Top2' and '10^6' get superscripts."""
    return re.sub(r"\^(\w+(?:,\w+)*)", r"\\textsuperscript{\1}", text.translate(ESCAPED))
