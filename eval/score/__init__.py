"""Scores of E2E, DART and WebNLG: the numbers of the official scripts, in their units, not rounded.

    from eval.score import Corpus, score
    score(Corpus("dart", hypotheses, references), ["bleu", "meteor", "ter"])

The scorer `e2e` is e2e-metrics' `measure_scores.py -p`; `dart` and `webnlg` are GenerationEval's
`eval.py -m bleu,meteor,ter`. `python -m eval.score --help` scores text files.
"""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import reduce
from importlib import metadata
from operator import add

from eval.score.corpus import Corpus, Statistics, identify_words
from eval.score.metrics import Metric, load_by_key, load_metric
from eval.score.postprocess import make_corpus
from loda.errors import LodaError

__all__ = [
    "DEFAULT_METRICS",
    "Corpus",
    "add_up",
    "check_metrics",
    "load_by_key",
    "make_corpus",
    "metrics_fingerprint",
    "score",
    "score_with_statistics",
    "start",
]

DEFAULT_METRICS = {
    "e2e": ("bleu", "nist", "meteor", "rouge_l", "cider"),
    "webnlg": ("bleu", "meteor", "ter"),
    "dart": ("bleu", "meteor", "ter"),
}
"""The metrics that the official script of each scorer reports."""


def score(corpus: Corpus, metrics: Sequence[str]) -> dict[str, float]:
    """The scores of a corpus by their reported name, for metrics named as in `["bleu", "meteor", "ter"]`.

    An unknown metric or a missing tool is refused before anything is computed.
    """
    return {key: value for key, (value, _) in score_with_statistics(corpus, metrics).items()}


def score_with_statistics(corpus: Corpus, metrics: Sequence[str]) -> dict[str, tuple[float, list[Statistics]]]:
    """As `score`, each score with the statistics of the instances."""
    check_metrics(corpus.scorer, metrics)
    loaded = [load_metric(name) for name in metrics]
    scores = {}
    for metric, statistics in zip(loaded, _statistics(corpus, loaded), strict=True):
        value = metric.combine(add_up(statistics), corpus.scorer)
        if not math.isfinite(value):
            raise LodaError(f"{metric.NAME} of these texts is {value}, not a number; leave it out of the metrics.")
        scores[metric.NAME] = (value, statistics)
    return scores


def check_metrics(scorer: str, metrics: Sequence[str]) -> None:
    """Raise LodaError unless these metrics exist and their tools (Java, data files) are installed."""
    for metric in map(load_metric, metrics):
        if check := getattr(metric, "check", None):
            check(scorer)


def start(metrics: Sequence[str]) -> None:
    """Begin what scoring would wait for, in processes beside this one: METEOR reads its tables for seconds."""
    for metric in map(load_metric, metrics):
        if begin := getattr(metric, "start", None):
            with suppress(OSError, LodaError):  # only a head start: scoring tries again, and says what is wrong
                begin()


def metrics_fingerprint(scorer: str, metrics: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the digits of each metric depend on: its version, those of its packages, and data without a version."""
    found = {}
    for name in metrics:
        metric = load_metric(name)
        packages = {package: metadata.version(package) for package in metric.PACKAGES}
        data = identify_words(scorer) if "nltk" in packages else {}
        found[name] = {"version": str(metric.VERSION), **packages, **data}
    return found


def add_up(statistics: Iterable[Statistics]) -> Statistics:
    """The sums over the instances, added from first to last; the order decides the last digit."""
    return tuple(reduce(add, column) for column in zip(*statistics, strict=True))


def _statistics(corpus: Corpus, metrics: Sequence[Metric]) -> list[list[Statistics]]:
    """All statistics. What waits for another process does so in a thread, the rest runs here and obeys signals."""
    with ThreadPoolExecutor(1) as background:
        waiting = {m: background.submit(m.statistics, corpus) for m in metrics if hasattr(m, "halted")}
        try:
            found = {metric: metric.statistics(corpus) for metric in metrics if metric not in waiting}
            found |= {metric: future.result() for metric, future in waiting.items()}
        except BaseException:
            with ExitStack() as stack:
                for metric in waiting:
                    stack.enter_context(metric.halted())
                background.shutdown()
            raise
    return [found[metric] for metric in metrics]
