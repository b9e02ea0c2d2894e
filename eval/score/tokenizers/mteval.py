"""Tokens and clipped n-gram matches of mteval-v13a, the common part of E2E's BLEU and NIST.

The E2E challenge counts with its own Python version of NIST's mteval-v13a.pl. Where it is peculiar,
so is this module: an empty text has one token, the empty string, and case is folded as Unicode has
it (the Perl script folds A to Z only).
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

MAX_ORDER = 5

Ngram = tuple[str, ...]

_tokenizer = Tokenizer13a()


class Match(NamedTuple):
    """One hypothesis against its references.

    Attributes:
        length: tokens of the hypothesis.
        reference_lengths: tokens of each reference.
        hits: for n = 1 to 5, the n-grams of the hypothesis that a reference has, each counted at
            most as often as in the reference that has it most often.
    """

    length: int
    reference_lengths: tuple[int, ...]
    hits: tuple[Counter[Ngram], ...]


class ReferenceCounts(NamedTuple):
    """What is counted in the references, whatever the system.

    Attributes:
        lengths: per group, tokens of each reference.
        maxima: per group, for n = 1 to 5, the largest count of each n-gram in one reference.
        totals: how often an n-gram occurs in all references of the corpus together; under the
            empty n-gram, the number of their tokens.
    """

    lengths: list[tuple[int, ...]]
    maxima: list[tuple[Counter[Ngram], ...]]
    totals: Counter[Ngram]


def tokenise(text: str) -> list[str]:
    """The lower-cased mteval-v13a tokens of a text; `['']` for an empty one."""
    return [token.lower() for token in _tokenizer(text).split(" ")]


def match(hypotheses: Sequence[str], references: tuple[tuple[str, ...], ...]) -> list[Match]:
    """Compare each hypothesis with its references."""
    counts = count_references(references)
    matches = []
    for hypothesis, lengths, maxima in zip(hypotheses, counts.lengths, counts.maxima, strict=True):
        tokens = tokenise(hypothesis)
        hits = tuple(mine & most for mine, most in zip(_count_ngrams(tokens), maxima, strict=True))
        matches.append(Match(len(tokens), lengths, hits))
    return matches


@lru_cache(maxsize=2)
def count_references(references: tuple[tuple[str, ...], ...]) -> ReferenceCounts:
    """Count the n-grams of all references (1.4 s for E2E's test set; cached for the next system)."""
    counts = ReferenceCounts([], [], Counter())
    for group in references:
        tokenised = [tokenise(text) for text in group]
        maxima: tuple[Counter[Ngram], ...] = tuple(Counter() for _ in range(MAX_ORDER))
        for tokens in tokenised:
            for of_group, of_text in zip(maxima, _count_ngrams(tokens), strict=True):
                of_group |= of_text
                counts.totals.update(of_text)
        counts.lengths.append(tuple(map(len, tokenised)))
        counts.maxima.append(maxima)
        counts.totals[()] += sum(map(len, tokenised))
    return counts


def _count_ngrams(tokens: list[str]) -> list[Counter[Ngram]]:
    return [
        Counter(zip(*(tokens[start:] for start in range(order)), strict=False)) for order in range(1, MAX_ORDER + 1)
    ]
