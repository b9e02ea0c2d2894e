"""Everything that an outputs folder holds, as one HTML file that opens from disk and loads nothing.

It shows tables with the command for each missing cell, figures (also saved as PNG and PDF), losses, provenance and all
scores. The page is `report.html.jinja`, which escapes what it shows.
"""

import base64
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from eval.figures import energy, losses, scores
from eval.figures.style import save, svg
from eval.pipeline import read_failure
from eval.results import Record, collect
from eval.tables.fill import FilledTable, fill
from eval.tables.layout import blocks, caption, header, notes
from eval.tables.spec import RowSpec, read
from loda.atomic import write_text
from loda.errors import LodaError, describe
from loda.lab.provenance import provenance
from loda.lab.run import Outputs

OF_ONE_RUN = ("seconds", "finished")  # they do not say where a number comes from


@dataclass(frozen=True)
class Picture:
    name: str  # of its files in `figures/`
    text: str
    source: str  # a `data:` address


def write(tables: Sequence[str], profile: str, root: str | Path, settings: Sequence[str] = ()) -> Path:
    """Write `report.html` and `figures/*.{png,pdf}` below the outputs folder `root`; returns the report's path.

    `profile` and `settings` are those of `eval.tables.fill.fill`, for all tables.
    """
    outputs, records = Outputs(Path(root)), collect(root)
    filled = [fill(read(name), profile, records, settings) for name in tables]
    trainings = {record.run: record.training for record in records if record.training is not None}
    template = _environment().get_template("report.html.jinja")
    prefixes = dict.fromkeys(table.title_prefix for table in filled if table.title_prefix)
    page = template.render(
        title=": ".join([*prefixes, "LoDA: report"]),
        now=provenance(0, torch.device("cpu")),
        runs=len({record.run for record in records}),
        hours=sum(training["seconds"] for training in trainings.values()) / 3600,
        tables=[(table, [*_scores(table, outputs), *_losses(table, outputs)]) for table in filled],
        energies=list(_energies(outputs)),
        failures={path.parent.name: read_failure(path) for path in outputs.runs.glob("*/failed.json")},
        origins=origins(records),
        scores=dict(_all_scores(records)),
    )
    write_text(outputs.report, page)
    return outputs.report


def origins(records: Sequence[Record]) -> dict[str, dict[str, Counter[str]]]:
    """How many scores have each value that is recorded with them, by stage and name."""
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for record in records:
        for stage, facts in record.provenance.items():
            for name, value in _leaves(facts, stage):
                found[stage][name][value] += 1
    for record in records:
        found["hashes"][f"data: {record.dataset}"][record.hashes["data"]] += 1
        found["hashes"][f"decoding: {record.split}"][record.hashes["decode"]] += 1
        found["hashes"][f"metrics: {record.scorer}"][record.hashes["metrics"]] += 1
    return found


def superscript(text: str) -> Markup:
    """'FT^Top2' and '10^6' with their superscripts, everything else escaped."""
    return Markup(re.sub(r"\^(\w+(?:,\w+)*)", r"<sup>\1</sup>", str(escape(text))))


def heading(name: str) -> str:
    """'table1' as 'Table 1', 'real_e2e' as 'Real e2e'."""
    return re.sub(r"(?<=table)(?=\d)|_", " ", name, count=1).capitalize()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"superscript": superscript, "heading": heading}
    environment.globals |= {"blocks": blocks, "caption": caption, "header": header, "notes": notes}
    return environment


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, str]]:
    """The values of nested objects, each with its key."""
    if not isinstance(tree, Mapping):
        yield name.replace("_", " "), "unknown" if tree is None else str(tree)
        return
    for key, value in tree.items():
        if key not in OF_ONE_RUN:
            yield from _leaves(value, key)


def _scores(table: FilledTable, outputs: Outputs) -> Iterator[Picture]:
    for metric, column in table.spec.columns.items():
        drawn = scores.draw(table, metric)
        if drawn is not None:
            text = f"{column.label or metric}: mean and sample standard deviation over seeds"
            yield _picture(drawn, f"{table.spec.name}-{table.profile}-{metric}", text, outputs)


def _losses(table: FilledTable, outputs: Outputs) -> Iterator[Picture]:
    runs = []
    for row in table.rows:
        for record in row.records:
            if record.training is not None:
                with _left_out_if_damaged():
                    path = outputs.runs / record.run / "metrics.jsonl"
                    runs.append(losses.read(path, row.spec.label, _variant(row.spec)))
    if runs:
        drawn = losses.draw(runs, table.title_prefix)
        text = "Training losses with their label smoothing, one line for each run"
        yield _picture(drawn, f"{table.spec.name}-{table.profile}-losses", text, outputs)


def _variant(row: RowSpec) -> str:
    if row.r is not None:
        return f"r = {row.r}"
    return "not approximated" if row.approx == "No" else row.approx


def _energies(outputs: Outputs) -> Iterator[Picture]:
    for path in sorted(outputs.figures.glob("figure2-*.csv")):
        with _left_out_if_damaged():
            curves = energy.read_csv(path)
            drawn = energy.draw(curves, energy.title_of(path.stem))
            yield _picture(drawn, path.stem, energy.summary(curves), outputs)


@contextmanager
def _left_out_if_damaged() -> Iterator[None]:
    """Name what is wrong with a picture's file on stderr: the others are drawn all the same."""
    try:
        yield
    except (LodaError, KeyError, ValueError) as error:
        print(f"left out: {describe(error)}", file=sys.stderr)


def _picture(drawn: Figure, name: str, text: str, outputs: Outputs) -> Picture:
    save(drawn, outputs.figures, name)
    content = base64.b64encode(svg(drawn).encode()).decode("ascii")
    return Picture(name, text, f"data:image/svg+xml;base64,{content}")


def _all_scores(records: Sequence[Record]) -> Iterator[tuple[str, Markup]]:
    """The records of each scorer, which have the same metrics, as an HTML table."""
    for scorer, group in groupby(sorted(records, key=lambda record: record.scorer), lambda record: record.scorer):
        rows = [
            {
                "Run": record.run,
                "Epoch": f"{record.epoch:g}",
                "Split": record.split,
                "Contexts": record.contexts,
                **record.scores,
                "Last loss": f"{record.training['final_loss']:.3f}" if record.training else "-",
                "Training": f"{record.training['seconds']:.0f} s" if record.training else "-",
            }
            for record in group
        ]
        yield scorer, Markup(pd.DataFrame(rows).to_html(index=False, border=0, na_rep="-", float_format="%.4f"))
