"""The metrics, one file each: with `bertscore.py` here, `bertscore` can be named in the metrics of a data set.

A metric is a module that exports

    NAME           the key of its score, as "METEOR"
    VERSION        an integer, raised by hand when a change of the code changes a digit
    PACKAGES       the distributions whose version the digits depend on, as ("sacrebleu",)
    statistics     (Corpus) -> list[Statistics]: for each instance, numbers that add up over instances
    combine        (sums, scorer) -> float: the score of the corpus from the sums of those numbers
    check          optional, (scorer) -> None: raises LodaError if a tool is missing; it must cost nothing
    start          optional, () -> None: begins what `statistics` would wait for, and does not wait for it
    halted         optional, for a metric whose work another process does, so that it is counted in a thread beside the
                   others: a context manager that makes `statistics` in that thread end at once, with an error

A mean over the instances has the statistics (value, 1): see `of_mean` and `mean` of `eval.score.corpus`. Because a
score is a function of sums, a bootstrap resample only adds up again (`eval/tables/bootstrap.py`).
`tests/parity/test_metrics.py` compares every metric with the official script, to all digits.
"""

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from eval.score.corpus import Corpus, Statistics
from loda.errors import LodaError


class Metric(Protocol):
    NAME: str
    VERSION: int
    PACKAGES: tuple[str, ...]

    def statistics(self, corpus: Corpus) -> list[Statistics]: ...

    def combine(self, sums: Sequence[float], scorer: str) -> float: ...


def metric_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_metric(name: str) -> Metric:
    """The metric in `<name>.py`; LodaError if there is none or a package is missing."""
    if name not in metric_names():
        raise LodaError(f"{name!r} is not a metric; there are {', '.join(metric_names())}")
    try:
        return cast(Metric, import_module(f"{__name__}.{name}"))
    except ModuleNotFoundError as error:
        raise LodaError(f"the metric {name} needs the package {error.name}; run `pip install -e '.[lab]'`") from error


def load_by_key(key: str) -> Metric:
    """The metric that reports its score as `key`, for example "METEOR"; LodaError if there is none."""
    metrics = {metric.NAME: metric for metric in map(load_metric, metric_names())}
    if key not in metrics:
        raise LodaError(f"{key!r} is not a score of any metric; there are {', '.join(metrics)}")
    return metrics[key]
