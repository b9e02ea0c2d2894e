"""Score text files, or a corpus in memory, with the metrics of the E2E and DART / WebNLG tables.

    python -m eval.score --protocol e2e  --refs refs.txt  --hyps hyps.txt --json scores.json
    python -m eval.score --protocol dart --refs reference --hyps hypothesis      # reference0, reference1, ...

A drop-in for e2e-metrics' `measure_scores.py -p` and GenerationEval's `eval.py -m bleu,meteor,ter`: the
same numbers in the same units, not rounded. All input is checked before the first metric starts; a
mistake in it ends with one line on stderr, exit code 2 and no JSON. The protocol `dart_leaderboard` is the
same scorer as `dart`: the two recipes differ in what the files hold (see `eval/score/postprocess.py`).
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from importlib import import_module, metadata
from operator import add
from pathlib import Path

from eval.score.corpus import Corpus, Statistics
from eval.score.text_files import read_corpus
from loda.errors import LodaError
from loda.lab.files import write_json

DEFAULT_METRICS = {
    "e2e": ("bleu", "nist", "meteor", "rouge_l", "cider"),
    "webnlg": ("bleu", "meteor", "ter"),
    "dart": ("bleu", "meteor", "ter"),
    "dart_leaderboard": ("bleu", "meteor", "ter"),
}


@dataclass(frozen=True)
class Metric:
    """A module of eval.score.metrics, as its docstring describes it."""

    key: str
    version: int
    packages: tuple[str, ...]
    elsewhere: bool
    statistics: Callable[[Corpus], list[Statistics]]
    combine: Callable[[Sequence[float], str], float]
    check: Callable[[str], None]


def load_metric(name: str) -> Metric:
    """The metric in `eval/metrics/<name>.py`; LodaError if there is none or a package is missing."""
    try:
        module = import_module(f"eval.score.metrics.{name}") if name in _module_names() else None
    except ModuleNotFoundError as error:
        raise LodaError(f"The metric {name} needs the package {error.name}: run `pip install -e '.[lab]'`.") from error
    if module is None or not hasattr(module, "statistics"):
        raise LodaError(f"Unknown metric {name!r}: choose among {', '.join(_metric_names())}.")
    return Metric(
        module.NAME,
        module.VERSION,
        module.PACKAGES,
        getattr(module, "ELSEWHERE", False),
        module.statistics,
        module.combine,
        getattr(module, "check", lambda protocol: None),
    )


def load_by_key(key: str) -> Metric:
    """The metric that reports its score as `key`, for example "METEOR".

    Raises:
        LodaError: there is none.
    """
    found = next((metric for metric in map(load_metric, _metric_names()) if metric.key == key), None)
    if found is None:
        raise LodaError(f"no metric reports {key!r}; there are {', '.join(_metric_names())}")
    return found


def check_metrics(protocol: str, metrics: Sequence[str]) -> None:
    """Raise LodaError unless these metrics exist and their tools (Java, data files) are there."""
    for name in metrics:
        load_metric(name).check(protocol)


def score(corpus: Corpus, metrics: Sequence[str]) -> dict[str, float]:
    """The scores of a corpus by their reported name, in the units of the official scripts.

    Args:
        corpus: hypotheses and references.
        metrics: names of modules in eval.score.metrics, as `["bleu", "meteor", "ter"]`.

    Raises:
        LodaError: an unknown metric, a missing tool (both before anything is computed), or a metric
            that these texts leave undefined.
    """
    return {key: value for key, (value, _) in score_with_statistics(corpus, metrics).items()}


def score_with_statistics(corpus: Corpus, metrics: Sequence[str]) -> dict[str, tuple[float, list[Statistics]]]:
    """The same scores, each with the statistics of the instances that it is a function of."""
    check_metrics(corpus.protocol, metrics)
    loaded, found = list(map(load_metric, metrics)), {}
    for metric, statistics in zip(loaded, _all_statistics(corpus, loaded), strict=True):
        value = metric.combine(add_up(statistics), corpus.protocol)
        if not math.isfinite(value):
            raise LodaError(f"{metric.key} of these texts is {value}, not a number.")
        found[metric.key] = (value, statistics)
    return found


def _all_statistics(corpus: Corpus, metrics: Sequence[Metric]) -> list[list[Statistics]]:
    """What each metric counts; a metric whose work another process does runs beside the others."""
    with ThreadPoolExecutor() as pool:
        beside = {m.key: pool.submit(m.statistics, corpus) for m in metrics if m.elsewhere}
        here = {m.key: m.statistics(corpus) for m in metrics if not m.elsewhere}
    return [beside[m.key].result() if m.elsewhere else here[m.key] for m in metrics]


def add_up(statistics: Iterable[Statistics]) -> Statistics:
    """The sums over the instances, added one after another: the last digit depends on the order."""
    return tuple(reduce(add, column) for column in zip(*statistics, strict=True))


def metrics_fingerprint(metrics: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the digits of each metric depend on besides the texts: its own version and its packages'."""
    loaded = {name: load_metric(name) for name in metrics}
    return {
        name: {"version": str(metric.version)} | {package: _version(package, name) for package in metric.packages}
        for name, metric in loaded.items()
    }


def _version(package: str, metric: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise LodaError(f"The metric {metric} needs the package {package}: run `pip install {package}`.") from error


def _module_names() -> set[str]:
    return {path.stem for path in (Path(__file__).parent / "metrics").glob("[a-z]*.py")}


def _metric_names() -> list[str]:
    """Of the modules, those that score; the others are what they share."""
    return sorted(n for n in _module_names() if hasattr(import_module(f"eval.score.metrics.{n}"), "statistics"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    metrics = options.metrics or DEFAULT_METRICS[options.protocol]
    try:
        if options.json and options.json.is_dir():
            raise LodaError(f"Cannot write {options.json}: it is a folder, name a file.")
        corpus = read_corpus(options.protocol, options.refs, options.hyps)
        scores = score(corpus, metrics)
    except LodaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_readable(corpus, scores))
    if options.json:
        write_json(options.json, scores)
    return 0


def _readable(corpus: Corpus, scores: dict[str, float]) -> str:
    references = sum(map(len, corpus.references))
    lines = [f"{corpus.protocol}: {len(corpus.hypotheses)} hypotheses, {references} references"]
    width = max(map(len, scores))
    return "\n".join(lines + [f"{name:<{width}} {value:9.4f}" for name, value in scores.items()])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.score",
        description="Score a file of hypotheses as the official scripts of E2E, DART and WebNLG do.",
    )
    parser.add_argument("--protocol", required=True, choices=list(DEFAULT_METRICS))
    parser.add_argument(
        "--refs",
        required=True,
        type=Path,
        help="e2e: file with a blank line between the references of two instances; "
        "otherwise: prefix of the files reference0, reference1, ...",
    )
    parser.add_argument("--hyps", required=True, type=Path, help="file with one hypothesis per line")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    parser.add_argument(
        "--metrics",
        nargs="+",
        help="modules of eval.score.metrics, instead of the protocol's",
    )
    return parser
