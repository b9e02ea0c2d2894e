"""Intervals of a table's scores, and of each row's difference to one of them, over resampled contexts.

Rows that were scored before their statistics were kept are refused, not left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval.results import Record
from eval.tables.bootstrap import Resampled
from eval.tables.fill import Cell, Line, TableData
from eval.tables.spec import Column
from loda.errors import LodaError
from loda.lab.run import Outputs


def with_intervals(table: TableData, root: str | Path, baseline: str | None = None) -> TableData:
    """`table` with the interval of every value, and of its difference to the row `baseline`.

    Args:
        table: filled with runs.
        root: the outputs folder.
        baseline: label of a row; of several with that label, the first.

    Raises:
        LodaError: no such row or no run of it, statistics that are missing, or rows scored on other contexts.
    """
    outputs = Outputs(Path(root))
    sides = {i: _side(line.records, outputs) for i, line in enumerate(table.lines) if line.records}
    reference = None if baseline is None else sides[_place(table, baseline)]
    columns = table.spec.columns
    lines = [_line(line, columns, sides.get(i), reference) for i, line in enumerate(table.lines)]
    return replace(table, lines=lines, baseline=baseline)


def _side(records: Sequence[Record], outputs: Outputs) -> Resampled:
    return Resampled(records, [outputs.run_named(record.run) for record in records])


def _place(table: TableData, label: str) -> int:
    labels = list(dict.fromkeys(line.row.label for line in table.lines))
    if label not in labels:
        raise LodaError(f"{label!r} is no row of {table.spec.name}; choose one of {', '.join(labels)}")
    place = next(i for i, line in enumerate(table.lines) if line.row.label == label)
    if not table.lines[place].records:
        commands = table.commands_for(table.lines[place])
        raise LodaError(f"row {label!r} has no runs to compare with; run {'; '.join(commands)}")
    return place


def _line(line: Line, columns: Mapping[str, Column], side: Resampled | None, reference: Resampled | None) -> Line:
    if side is None:
        return line
    cells = {name: _cell(cell, name, columns[name].scale, side, reference) for name, cell in line.cells.items()}
    return replace(line, cells=cells)


def _cell(cell: Cell, name: str, scale: float, side: Resampled, reference: Resampled | None) -> Cell:
    if cell.ours is None:
        return cell
    against = None if reference in (None, side) else side.minus(reference, name).scaled(scale)
    return replace(cell, interval=side.interval(name).scaled(scale), against=against)
