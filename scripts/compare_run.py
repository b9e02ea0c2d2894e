"""Hold a finished run against LoRA's code and the paper: what differs may be why a score does.

    python -m scripts.compare_run toy-toy-loda_plus-r4-dense-s110-32eb786b8d3e
    python -m scripts.compare_run outputs/runs/...

Every point that determines a score is printed with what the run has, what LoRA's code does and what the paper says
(`configs/protocol.yaml`); those that differ are marked, with the sources and what is known of their effect.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from eval.completion import summary
from eval.protocol import Finding, Side, compare, counterpart, facts, find_run, points, read_run, sources
from eval.records import Record
from loda.errors import LodaError

NOT_STATED = "-"
MARKS = {(False, False): "", (True, False): "≠C", (False, True): "≠P", (True, True): "≠CP"}
"""By whether a point differs from LoRA's code and from the paper."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code, which differences do not change."""
    parser = argparse.ArgumentParser(prog="python -m scripts.compare_run", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the folder of a run, or its name in the outputs folder")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder that holds runs/")
    options = parser.parse_args(arguments)
    try:
        run = find_run(options.run, options.outputs)
        records = read_run(run)
        dataset = counterpart(records[0].dataset)
        findings = compare(facts(run, records), points(dataset))
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(records, dataset, findings))
    return 0


def report(records: Sequence[Record], dataset: str, findings: Sequence[Finding]) -> str:
    """The scores, the points in columns, and how many of them differ."""
    legend = f"C: LoRA's code, P: the paper, both for {dataset}; ≠ differs from it, {NOT_STATED} not stated there."
    named = [f"{name}: {text}" for name, text in sources().items()]
    scores = list(dict.fromkeys(map(summary, records)))
    return "\n".join([*scores, "", legend, "", *_table(findings), "", *named, "", _count(findings)])


def _table(findings: Sequence[Finding]) -> list[str]:
    rows = [_cells(finding) for finding in findings]
    header = ["", "", "this run", "C: LoRA's code", "P: the paper"]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [_aligned(header, widths)]
    for section, group in groupby(zip(findings, rows, strict=True), key=lambda pair: pair[0].point.section):
        lines += ["", section]
        for finding, row in group:
            lines += [_aligned(row, widths), *_explained(finding, indent=" " * (widths[0] + 4))]
    return lines


def _cells(finding: Finding) -> list[str]:
    point = finding.point
    mark = MARKS[finding.differs_from_reference, finding.differs_from_paper]
    return [mark, point.setting, " / ".join(finding.run), _stated(point.reference), _stated(point.paper)]


def _stated(side: Side) -> str:
    return " or ".join(side.values[:3]) + (" ..." if len(side.values) > 3 else "") if side.values else NOT_STATED


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _explained(finding: Finding, indent: str) -> list[str]:
    """Below a point that differs: who says so, and what it changes."""
    if not finding.differs:
        return []
    point = finding.point
    said = {"C": point.reference, "P": point.paper}
    parts = [f"{name}: {side.source}." for name, side in said.items() if side.values]
    return textwrap.wrap(" ".join([*parts, point.why]), 116, initial_indent=indent, subsequent_indent=indent)


def _count(findings: Sequence[Finding]) -> str:
    code = sum(finding.differs_from_reference for finding in findings)
    paper = sum(finding.differs_from_paper for finding in findings)
    differ = sum(finding.differs for finding in findings)
    return f"{differ} of {len(findings)} points differ: {code} from LoRA's code, {paper} from the paper."


if __name__ == "__main__":
    sys.exit(main())
