"""Everything that an outputs folder holds, as one HTML file that opens from disk and loads nothing.

For each table: scores with the command for each missing cell, differences with intervals, figures (also saved as PNG
and PDF), losses, costs and texts. Then Figure 2, failures, provenance and all scores. The page is `report.html.jinja`,
which escapes what it shows.
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
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from eval.decode.stage import read_texts
from eval.figures import differences, energy, frontier, losses, scores
from eval.figures.style import WIDTH, save, svg
from eval.pipeline import read_failure
from eval.results import Record, collect
from eval.score.postprocess import prepare
from eval.tables.bootstrap import with_intervals
from eval.tables.fill import FilledRow, FilledTable, fill
from eval.tables.layout import blocks, caption, header, notes
from eval.tables.spec import RowSpec, read
from loda.atomic import write_text
from loda.errors import LodaError, describe
from loda.lab.data import identity, load
from loda.lab.provenance import provenance
from loda.lab.run import Outputs
from loda.lab.stage import digest, read_stage

OF_ONE_RUN = ("seconds", "finished")  # they do not say where a number comes from
CONTEXTS = 6  # that texts are shown of


@dataclass(frozen=True)
class Picture:
    name: str  # of its files in `figures/`
    text: str
    source: str  # a `data:` address
    is_wide: bool


@dataclass(frozen=True)
class Example:
    """A context with its references, and what each row's first run wrote for it."""

    context: str
    references: Sequence[str]
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Section:
    table: FilledTable
    pictures: Sequence[Picture]
    costs: Markup
    examples: Sequence[Example]


def write(
    tables: Sequence[str], profile: str, root: str | Path, settings: Sequence[str] = (), baseline: str = "LoRA"
) -> Path:
    """Write `report.html` and `figures/*.{png,pdf}` below the outputs folder `root`; returns the report's path.

    `profile` and `settings` are those of `eval.tables.fill.fill`, for all tables. Rows are compared with the row
    `baseline` where a table has runs of it.
    """
    outputs, records = Outputs(Path(root)), collect(root)
    sections = [_section(fill(read(name), profile, records, settings), outputs, baseline) for name in tables]
    trainings = {record.run: record.training for record in records if record.training is not None}
    template = _environment().get_template("report.html.jinja")
    prefixes = dict.fromkeys(one.table.title_prefix for one in sections if one.table.title_prefix)
    page = template.render(
        title=": ".join([*prefixes, "LoDA: report"]),
        now=provenance(0, torch.device("cpu")),
        runs=len({record.run for record in records}),
        hours=sum(training["seconds"] for training in trainings.values()) / 3600,
        sections=sections,
        energies=list(_energies(outputs)),
        failures={path.parent.name: read_failure(path) for path in outputs.runs.glob("*/failed.json")},
        origins=_origins(records),
        scores=dict(_all_scores(records)),
    )
    write_text(outputs.report, page)
    return outputs.report


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


def _section(table: FilledTable, outputs: Outputs, baseline: str) -> Section:
    is_there = any(row.records for row in table.rows if row.spec.label == baseline)
    with _left_out_if_damaged():
        table = with_intervals(table, outputs.root, baseline if is_there else None)
    drawn = [*_drawn(table, outputs)]
    pictures = [_picture(figure, name, text, outputs) for name, figure, text in drawn]
    return Section(table, pictures, _costs(table), list(_examples(table, outputs)))


def _drawn(table: FilledTable, outputs: Outputs) -> Iterator[tuple[str, Figure, str]]:
    """The figures of a table: name, figure, what it shows."""
    name = f"{table.spec.name}-{table.profile}"
    if (figure := differences.draw(table)) is not None:
        yield differences.name_of(table), figure, f"Differences to {table.baseline}"
    for metric, column in table.spec.columns.items():
        if (figure := scores.draw(table, metric)) is not None:
            yield f"{name}-{metric}", figure, f"{column.label or metric}: mean and sample standard deviation over seeds"
    if table.spec.name == "frontier" and not (points := frontier.points(table, outputs.root)).empty:
        yield f"{name}-points", frontier.draw(points), "Scores over multiply-accumulates, time and bytes"
    if runs := [*_losses(table, outputs)]:
        figure = losses.draw(runs, table.title_prefix)
        yield f"{name}-losses", figure, "Training losses with their label smoothing, one line for each run"


def _losses(table: FilledTable, outputs: Outputs) -> Iterator[losses.Losses]:
    for row in table.rows:
        for record in row.records:
            path = outputs.runs / record.run / "metrics.jsonl"
            with _left_out_if_damaged():
                if path.exists():
                    yield losses.read(path, row.spec.label, _variant(row.spec))


def _variant(row: RowSpec) -> str:
    if row.r is not None:
        return f"r = {row.r}"
    return "not approximated" if row.approx == "No" else row.approx


def _energies(outputs: Outputs) -> Iterator[Picture]:
    for path in sorted(outputs.figures.glob("figure2-*.csv")):
        with _left_out_if_damaged():
            curves = energy.read_csv(path)
            yield _picture(energy.draw(curves, path.stem), path.stem, energy.summary(curves), outputs)


@contextmanager
def _left_out_if_damaged() -> Iterator[None]:
    """Name what is wrong with a file on stderr: the rest is shown all the same."""
    try:
        yield
    except (LodaError, KeyError, ValueError) as error:
        print(f"left out: {describe(error)}", file=sys.stderr)


def _picture(drawn: Figure, name: str, text: str, outputs: Outputs) -> Picture:
    save(drawn, outputs.figures, name)
    content = base64.b64encode(svg(drawn).encode()).decode("ascii")
    is_wide = drawn.get_size_inches()[0] > WIDTH
    return Picture(name, text, f"data:image/svg+xml;base64,{content}", bool(is_wide))


def _examples(table: FilledTable, outputs: Outputs) -> Iterator[Example]:
    """Contexts spread evenly over the split, so that nobody chose them; none where no texts are kept."""
    first = {_name(row): row.records[0] for row in table.rows if row.records}
    kept = {name: record for name, record in first.items() if (outputs.root / record.place).is_dir()}
    with _left_out_if_damaged():
        texts = {name: _texts(outputs.root, record) for name, record in kept.items()}
        for record in [*kept.values()][:1]:
            path = record.settings["dataset"]["path"]
            instances = load(record.dataset, record.split, path)
            if digest(identity(record.dataset, path)) != record.hashes["data"]:
                raise LodaError(
                    f"the data of {table.spec.name} changed since they were decoded; train and decode again"
                )
            for place in range(0, len(instances), -(-len(instances) // CONTEXTS)):
                written = {name: found[place] for name, found in texts.items()}
                yield Example(instances[place].context, instances[place].references, written)


def _texts(root: Path, record: Record) -> list[str]:
    """What a run wrote, up to its stop, in words that people can read: scorers of DART cut them into tokens."""
    decoding = read_stage(root, record.place.rpartition("/")[0])
    return prepare("e2e", read_texts(root, decoding), record.settings["decode"]["stop"])


def _name(row: FilledRow) -> str:
    facts = [row.spec.approx] * (row.spec.approx != "No") + [f"r = {row.spec.r}"] * (row.spec.r is not None)
    return ", ".join([row.spec.label, *facts])


def _costs(table: FilledTable) -> Markup:
    """What each row costs: counted for the model, measured for the runs."""
    rows = []
    for row in (row for row in table.rows if row.records):
        cost, runs = row.records[0].cost, row.records
        trainings = [run.training for run in runs if run.training]
        memory = [each["peak_memory_bytes"] for each in trainings if each.get("peak_memory_bytes")]
        stages = [stage for run in runs for stage in run.provenance.values()]
        rows.append(
            {
                "Method": _name(row),
                "Trainable": f"{cost.trainable_parameters:,}",
                "MACs per token": f"{cost.model_macs_per_token:,}",
                "of the base's": f"{cost.model_share:.1%}",
                "Energy kept": f"{cost.energy:.1%}",
                "Training": _seconds(trainings),
                "Peak GPU memory": f"{max(memory) / 2**30:.2f} GiB" if memory else "",
                "Decoding": _seconds([run.provenance["decoding"] for run in runs if "decoding" in run.provenance]),
                "Seeds": len(runs),
                "Device": ", ".join(dict.fromkeys(stage["device"] for stage in stages)),
            }
        )
    return _html(rows)


def _seconds(stages: Sequence[Mapping[str, Any]]) -> str:
    return f"{fmean(stage['seconds'] for stage in stages):,.0f} s" if stages else ""


def _origins(records: Sequence[Record]) -> Markup:
    """How many scores have each value that is recorded with them."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for stage, facts in record.provenance.items():
            for name, value in _leaves(facts, stage):
                found[name][value] += 1
        for kind, of in (("data", record.dataset), ("decode", record.split), ("metrics", record.scorer)):
            found[f"hash of {kind}, {of}"][record.hashes[kind]] += 1
    return _html(
        [{"What": name, "Values": ", ".join(f"{v} ({n})" for v, n in found[name].most_common())} for name in found]
    )


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, str]]:
    """The values of nested objects, each with its key."""
    if not isinstance(tree, Mapping):
        yield name.replace("_", " "), "unknown" if tree is None else str(tree)
        return
    for key, value in tree.items():
        if key not in OF_ONE_RUN:
            yield from _leaves(value, key)


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
                "Last loss": f"{record.training['final_loss']:.3f}" if record.training else "",
            }
            for record in group
        ]
        yield scorer, _html(rows)


def _html(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The rows as a table without empty columns; '' without rows."""
    frame = pd.DataFrame(rows).replace("", pd.NA).dropna(axis="columns", how="all")
    with pd.option_context("display.max_colwidth", None):  # pandas cuts texts after 50 characters
        return Markup(frame.to_html(index=False, border=0, na_rep="-", float_format="%.4f") if rows else "")
