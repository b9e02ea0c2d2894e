"""NIST-5 (Doddington, 2002) as the E2E challenge's `measure_scores.py -p` computes it.

The challenge's other mode, the Perl script, averages the reference length over the corpus in another
way: numbers from the challenge papers are up to 0.3 higher for systems of short outputs. No library
gives either number; NLTK's NIST is lower by a whole point.
"""

import math
from collections.abc import Mapping, Sequence

from eval.score.corpus import Corpus, Statistics
from eval.score.tokenizers import mteval
from loda.errors import LodaError

NAME = "NIST"
VERSION = 1
PACKAGES = ("sacrebleu",)

# An output of two thirds of the reference length has its score halved.
_BETA = -math.log(0.5) / math.log(1.5) ** 2
_ORDERS = range(1, mteval.MAX_ORDER + 1)


def statistics(corpus: Corpus) -> list[Statistics]:
    """Length, mean reference length, information of the hits for n = 1 to 5, number of n-grams for n = 1 to 5.

    The information of an n-gram is log2(count of its first n-1 words / its count) in all references of the corpus.
    """
    totals = mteval.count_references(corpus.references).totals
    return [
        (
            match.length,
            sum(match.reference_lengths) / len(match.reference_lengths),
            *(_information(hits, totals) for hits in match.hits),
            *(match.length - order + 1 for order in _ORDERS),
        )
        for match in mteval.match(corpus.hypotheses, corpus.references)
    ]


def combine(sums: Sequence[float], scorer: str) -> float:
    """exp(-beta ln^2 min(1, c/r)) sum_n (information of the hits / n-grams), n = 1 to 5.

    c is the length of the hypotheses, r sums the mean reference length of each instance.
    """
    length, reference_length, *rest = sums
    gain = 0.0
    for order, information, ngrams in zip(_ORDERS, rest[: mteval.MAX_ORDER], rest[mteval.MAX_ORDER :], strict=True):
        if ngrams == 0:  # the official script ends with a ZeroDivisionError
            raise LodaError(
                f"NIST is undefined: these hypotheses have no {order}-grams to divide by, being of "
                f"{order - 1} tokens on average; leave nist out of the metrics"
            )
        gain += information / ngrams
    return math.exp(-_BETA * math.log(min(1.0, length / reference_length)) ** 2) * gain


def _information(hits: Mapping[mteval.Ngram, int], totals: Mapping[mteval.Ngram, int]) -> float:
    return sum(math.log(totals[ngram[:-1]] / totals[ngram], 2) * count for ngram, count in hits.items())
