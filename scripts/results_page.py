"""Write the tables of `results/` into docs/results.md, between their marks, with the figure of the differences.

    python -m scripts results

Nothing is trained: the page says what the committed records say, and lists what they lack with its command.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
from tabulate import tabulate

from eval.figures import differences, frontier, nonlinearity
from eval.figures.style import save
from eval.results import collect
from eval.tables.bootstrap import with_intervals
from eval.tables.fill import fill
from eval.tables.render import markdown
from eval.tables.spec import read
from loda.atomic import write_text
from loda.errors import LodaError
from loda.lab.command_line import run_command
from loda.linearization import LinearFit
from loda.settings import load, read_json

ROOT = Path(__file__).resolve().parents[1]
BASELINES = {"real_e2e": "LoRA", "real_webnlg": "LoRA", "real_r": "LoRA", "choices": "LoDA+", "frontier": "LoDA+"}
"""The tables of the page, and the row of each that the others are compared with."""


def page(text: str, results: Path, figures: Path) -> str:
    """`text` with what stands between the marks of every table, and of the rates, written anew."""
    records = collect(results)
    for name, baseline in BASELINES.items():
        table = fill(read(name), "auto", records)
        if any(row.records for row in table.rows if row.spec.label == baseline):
            table = with_intervals(table, results, baseline)
        drawn = differences.draw(table)
        picture = f"![Differences to {baseline}]({name}-differences.png)\n\n" if drawn is not None else ""
        if drawn is not None:
            save(drawn, figures, f"{name}-differences")
        text = _between(text, name, picture + markdown(table))
    points = frontier.points(table, results)
    if not points.empty:
        save(frontier.draw(points), figures, "frontier")
    text = _between(text, "points", _points(points))
    found = [read_json(path) for path in sorted((results / "linearize").glob("*.json"))]
    if found:
        save(
            nonlinearity.draw({f"{_label(each)}, rank {each['rank']}": _fits(each) for each in found}),
            figures,
            "nonlinearity",
        )
    text = _between(text, "linearize", linearized(found))
    return _between(text, "rates", rates(results / "rates"))


def _points(points: pd.DataFrame) -> str:
    if points.empty:
        return "Not timed yet: `python -m scripts frontier`.\n"
    formats = ("", "", ".1f", ".1f", ".0f", ".1f", ".3f")
    known = points.astype(object).where(points.notna(), None)  # tabulate prints a nan as a number
    table = known.to_markdown(index=False, tablefmt="github", floatfmt=formats, missingval="-")
    return f"![Scores over costs](frontier.png)\n\n{table}\n"


def linearized(found: Iterable[dict[str, Any]]) -> str:
    """How well a LoRA does what the adapters of each run do, as a table."""
    rows = [
        [
            _label(each),
            each["rank"],
            *_means(_fits(each)),
            *_pair(each["losses"], 4),
            *_pair(each["scores"].get("BLEU"), 3),
        ]
        for each in found
    ]
    header = [
        *("run", "rank", "LoRA misses", "any linear map misses", "worst slice"),
        *("loss", "with the LoRA", "BLEU", "with the LoRA"),
    ]
    return str(tabulate(rows, header, tablefmt="github", disable_numparse=True)) + "\n"


def _pair(values: Sequence[float] | None, digits: int) -> list[str]:
    return ["-", "-"] if values is None else [f"{value:.{digits}f}" for value in values]


def _label(found: dict[str, Any]) -> str:
    """The run without base and data, with the beginning of its digest: loda_plus-r4-dense-s110 (1e94)."""
    *name, key = str(found["run"]).split("-")[2:]
    return f"{'-'.join(name)} ({key[:4]})"


def _fits(found: dict[str, Any]) -> list[LinearFit]:
    return [load(LinearFit, fit) for fit in found["fits"]]


def _means(fits: Sequence[LinearFit]) -> list[str]:
    missed = [fit.nonlinearity for fit in fits]
    return [f"{value:.2%}" for value in (mean(fit.error for fit in fits), mean(missed), max(missed))]


def rates(folder: Path) -> str:
    """What was tried for each method, as a table."""
    found = [read_json(path) for path in sorted(folder.glob("*.json"))]
    tried = sorted({rate for each in found for rate in each["losses"]}, key=float)
    rows = [
        [each["row"], each["approx"], *(_loss(each, rate) for rate in tried), each.get("best", "not finished")]
        for each in found
    ]
    return str(tabulate(rows, ["Method", "Approx.", *tried, "chosen"], tablefmt="github", disable_numparse=True)) + "\n"


def _loss(found: dict[str, dict[str, float]], rate: str) -> str:
    return f"{found['losses'][rate]:.4f}" if rate in found["losses"] else "-"


def _between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise LodaError(f"the page has no place for {name}; write the lines {begin} and {end} where it belongs")
    return re.sub(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", lambda _: content, text, flags=re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts results", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the records")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md", help="the page to write")
    options = parser.parse_args(arguments)
    write_text(options.page, page(options.page.read_text(encoding="utf-8"), options.results, options.page.parent))
    print(f"written: {options.page}")
    return 0


if __name__ == "__main__":
    run_command(main)
