"""The metrics of the E2E and the DART / WebNLG tables, one file each.

A metric is a module of this package that exports

    NAME      the key it is reported under, as "METEOR"
    VERSION   an integer, raised by hand when a change of the code changes a digit
    PACKAGES  the distributions whose version the digits depend on, as ("sacrebleu",)
    statistics  a function (Corpus) -> list[Statistics]: for each instance, numbers that add up over instances
    combine   a function (sums, protocol) -> float: the score of the corpus, from the sums of those numbers alone
    check     optional, a function (protocol) -> None that raises LodaError, at no cost, when a tool
              is missing (a Java runtime, a data file); it runs before any metric is computed
    ELSEWHERE optional, true where another process does the work: the metric then runs beside the others

and is chosen by the name of its file: write `bertscore.py` here, put `bertscore` into the `metrics`
list of a dataset, done. A mean over the instances has the statistics (value, 1) and is combined by `corpus.mean`.
Because a score is a function of sums, that of any resample of the instances costs no more than adding them up again
(`eval/tables/bootstrap.py`). The modules without `statistics` are what the metrics share: the corpus and its
tokenisations (`corpus`, `mteval`, `ptb`, `words`), the files it is read from (`files`) and Java.

Every number is meant to equal that of the official script, `measure_scores.py -p` of e2e-metrics and
`eval.py` of GenerationEval, to all digits; `tests/parity/test_metrics.py` holds them to it.
"""
