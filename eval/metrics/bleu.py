"""BLEU-4 (Papineni et al., 2002), which is two metrics by the same name.

E2E reports the Python mteval of its challenge: a fraction, case folded. DART and WebNLG report
Moses' multi-bleu-detok.perl: 0 to 100, case-sensitive, which sacrebleu computes. Neither smooths,
except that the E2E script takes a vanishing count as 1e-15.
"""

import math
from functools import lru_cache
from itertools import zip_longest

from sacrebleu.metrics.bleu import BLEU

from eval.metrics import mteval
from eval.metrics.corpus import Corpus

NAME = "BLEU"
VERSION = 1
PACKAGES = ("sacrebleu",)

_ORDERS = range(1, 5)


def score(corpus: Corpus) -> float:
    """Corpus BLEU-4 in the unit of the protocol's script."""
    return _mteval_bleu(corpus) if corpus.protocol == "e2e" else _moses_bleu(corpus)


def _mteval_bleu(corpus: Corpus) -> float:
    """BP exp(1/4 sum_n log p_n) with p_n = hits / n-grams and BP = exp(1 - r/c) if c <= r.

    r sums the closest reference lengths, the shorter one on a tie. A hypothesis of l tokens counts
    l - n + 1 n-grams even where that is negative, as in the challenge's script.
    """
    matches = mteval.match(corpus)
    log_precision = 0.0
    for order in _ORDERS:
        hits = sum(match.hits[order - 1].total() for match in matches)
        ngrams = sum(match.length - order + 1 for match in matches)
        log_precision += math.log(max(hits, 1e-15) / max(ngrams, 1e-9))
    length = sum(match.length for match in matches)
    reference_length = sum(_closest(match.reference_lengths, match.length) for match in matches)
    brevity = math.exp(1 - reference_length / length) if length <= reference_length else 1.0
    return brevity * math.exp(log_precision / len(_ORDERS))


def _closest(lengths: tuple[int, ...], length: int) -> int:
    return min(lengths, key=lambda candidate: (abs(candidate - length), candidate))


def _moses_bleu(corpus: Corpus) -> float:
    """BLEU of multi-bleu-detok.perl, 0 to 100; an empty reference has length 0."""
    return float(_moses_scorer(corpus.references).corpus_score(corpus.hypotheses, None).score)


@lru_cache(maxsize=2)
def _moses_scorer(references: tuple[tuple[str, ...], ...]) -> BLEU:
    # `None`, where a group has fewer references than another, is no reference at all for sacrebleu.
    # `force` silences its advice against tokenised text, which this protocol wants.
    streams = list(zip_longest(*references))
    return BLEU(tokenize="13a", smooth_method="none", force=True, references=streams)
