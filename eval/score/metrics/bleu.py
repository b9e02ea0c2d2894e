"""BLEU-4 (Papineni et al., 2002), which is two metrics by the same name.

E2E reports the Python mteval of its challenge: a fraction, case folded. DART and WebNLG report
Moses' multi-bleu-detok.perl: 0 to 100, case-sensitive, which sacrebleu computes. Neither smooths,
except that the E2E script takes a vanishing count as 1e-15.
"""

import math
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU

from eval.score.corpus import Corpus, Statistics
from eval.score.tokenizers import mteval

NAME = "BLEU"
VERSION = 1
PACKAGES = ("sacrebleu",)

_ORDERS = range(1, 5)

# Moses' script reads characters, and to Perl the separators U+001C to U+001F are no white space, as they are to Python.
# They become noncharacters, which no text has.
_NO_SPACE = {0x1C + i: 0xFDD0 + i for i in range(4)}


def statistics(corpus: Corpus) -> list[Statistics]:
    """Length, closest reference length, hits for n = 1 to 4, number of n-grams for n = 1 to 4."""
    return _mteval_statistics(corpus) if corpus.scorer == "e2e" else _moses_statistics(corpus)


def combine(sums: Sequence[float], scorer: str) -> float:
    """BLEU-4 of the corpus, in the unit of the official script."""
    return _mteval_bleu(*sums) if scorer == "e2e" else _moses_bleu(*sums)


def _mteval_statistics(corpus: Corpus) -> list[Statistics]:
    return [
        (
            match.length,
            _closest(match.reference_lengths, match.length),
            *(match.hits[order - 1].total() for order in _ORDERS),
            # Negative for a text shorter than the order, as in the official script.
            *(match.length - order + 1 for order in _ORDERS),
        )
        for match in mteval.match(corpus.hypotheses, corpus.references)
    ]


def _closest(lengths: Sequence[int], length: int) -> int:
    """The reference length closest to `length`, the shorter one on a tie."""
    return min(lengths, key=lambda candidate: (abs(candidate - length), candidate))


def _mteval_bleu(length: float, reference_length: float, *counts: float) -> float:
    """BP exp(1/4 sum_n log p_n) with p_n = hits / n-grams and BP = exp(1 - r/c) if c <= r, else 1."""
    log_precision = 0.0
    for hits, ngrams in zip(counts[:4], counts[4:], strict=True):
        log_precision += math.log(max(hits, 1e-15) / max(ngrams, 1e-9))
    brevity = math.exp(1 - reference_length / length) if length <= reference_length else 1.0
    return brevity * math.exp(log_precision / len(_ORDERS))


def _moses_statistics(corpus: Corpus) -> list[Statistics]:
    # `force` silences sacrebleu's advice against tokenised text, which is what this scorer is given.
    bleu = BLEU(tokenize="13a", smooth_method="none", force=True)
    statistics = []
    for text, group in zip(corpus.hypotheses, corpus.references, strict=True):
        references = [[reference.translate(_NO_SPACE)] for reference in dict.fromkeys(group)]
        score = bleu.corpus_score([text.translate(_NO_SPACE)], references)
        statistics.append((score.sys_len, score.ref_len, *score.counts, *score.totals))
    return statistics


def _moses_bleu(length: float, reference_length: float, *counts: float) -> float:
    whole = [round(count) for count in counts]
    score = BLEU.compute_bleu(whole[:4], whole[4:], round(length), round(reference_length), smooth_method="none")
    return float(score.score)
