"""NIST-5 (Doddington, 2002) as the E2E challenge's `measure_scores.py -p` computes it.

The challenge's other mode, the Perl script, differs in the length penalty alone (it averages the
reference length over the corpus in another way): numbers from the challenge papers are up to 0.3
higher for systems of short outputs. NLTK's NIST is lower by a whole point.
"""

import math

from eval.metrics import mteval
from eval.metrics.corpus import Corpus
from loda.errors import LodaError

NAME = "NIST"
VERSION = 1
PACKAGES = ("sacrebleu",)

# An output of two thirds of the reference length has its score halved.
_BETA = -math.log(0.5) / math.log(1.5) ** 2


def score(corpus: Corpus) -> float:
    """exp(-beta ln^2 min(1, c/r)) sum_n (information of the hits / n-grams), n = 1 to 5.

    The information of an n-gram is log2(count of its first n-1 words / its count) in all
    references; c is the length of the hypotheses, r sums each instance's mean reference length.

    Raises:
        LodaError: the hypotheses are so short that an order has no n-grams to divide by; the
            official script ends with a ZeroDivisionError there.
    """
    matches = mteval.match(corpus)
    totals = mteval.count_references(corpus.references).totals
    gain = sum(_gain(matches, totals, order) for order in range(1, mteval.MAX_ORDER + 1))
    length = sum(match.length for match in matches)
    reference_length = sum(sum(match.reference_lengths) / len(match.reference_lengths) for match in matches)
    return _length_penalty(length / reference_length) * gain


def _gain(matches: list[mteval.Match], totals: dict[mteval.Ngram, int], order: int) -> float:
    ngrams = sum(match.length - order + 1 for match in matches)
    if ngrams == 0:
        raise LodaError(
            f"NIST is undefined: these hypotheses have no {order}-grams to divide by, being of "
            f"{order - 1} tokens on average; leave nist out of the metrics."
        )
    information = 0.0
    for match in matches:
        information += sum(
            math.log(totals[ngram[:-1]] / totals[ngram], 2) * count for ngram, count in match.hits[order - 1].items()
        )
    return information / ngrams


def _length_penalty(ratio: float) -> float:
    return 1.0 if ratio >= 1 else math.exp(-_BETA * math.log(ratio) ** 2)
