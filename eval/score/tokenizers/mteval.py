"""Tokens and clipped n-gram matches of mteval-v13a, the common part of E2E's BLEU and NIST.

The E2E challenge counts with its own Python version of NIST's mteval-v13a.pl, and so does this module: an empty text
has one token, the empty string, and Unicode case is folded (the Perl script folds A to Z only).
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
    """One hypothesis against its references."""

    length: int
    reference_lengths: tuple[int, ...]
    hits: tuple[Counter[Ngram], ...]  # n = 1 to 5; an n-gram counts at most as often as in one reference


class ReferenceCounts(NamedTuple):
    lengths: list[tuple[int, ...]]  # of the references of each group
    maxima: list[tuple[Counter[Ngram], ...]]  # of each group, n = 1 to 5: largest count of an n-gram in one reference
    totals: Counter[Ngram]  # count in all references together; of the empty n-gram: the number of tokens


def tokenise(text: str) -> list[str]:
    """The lower-cased mteval-v13a tokens of a text; `['']` for an empty one."""
    return [token.lower() for token in _tokenizer(text).split(" ")]


def match(hypotheses: Sequence[str], references: tuple[tuple[str, ...], ...]) -> list[Match]:
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
