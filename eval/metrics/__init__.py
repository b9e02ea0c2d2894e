"""The metrics of the E2E and the DART / WebNLG tables, one file each.

A metric is a module of this package that exports

    NAME      the key it is reported under, as "METEOR"
    VERSION   an integer, raised by hand when a change of the code changes a digit
    PACKAGES  the distributions whose version the digits depend on, as ("sacrebleu",)
    score     a function (Corpus) -> float
    check     optional, a function (protocol) -> None that raises LodaError, at no cost, when a tool
              is missing (a Java runtime, a data file); it runs before any metric is computed

and is chosen by the name of its file: write `bertscore.py` here, put `bertscore` into the `metrics`
list of a dataset, done. The modules without a `score` are what the metrics share: the corpus and its
tokenisations (`corpus`, `mteval`, `ptb`, `words`), the files it is read from (`files`) and Java.

Every number is meant to equal that of the official script, `measure_scores.py -p` of e2e-metrics and
`eval.py` of GenerationEval, to all digits; `tests/parity/test_metrics.py` holds them to it.
"""
