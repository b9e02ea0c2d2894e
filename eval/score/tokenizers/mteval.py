"""Clipped n-gram matches of the mteval-v13a family, the common part of E2E's BLEU and NIST.

The E2E challenge counts with its own Python version of NIST's mteval-v13a.pl. Where it is peculiar,
so is this module: an empty text has one token, the empty string, and case is folded as Unicode has
it (the Perl script folds A to Z only).
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from eval.score.corpus import Corpus

MAX_ORDER = 5

Ngram = tuple[str, ...]

_tokenizer = Tokenizer13a()


@dataclass(frozen=True)
class Match:
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


@dataclass(frozen=True)
class ReferenceCounts:
    """What the references contribute, whatever the system.

    Attributes:
        lengths: per group, tokens of each reference.
        maxima: per group, for n = 1 to 5, the largest count of each n-gram in one reference.
        totals: how often an n-gram occurs in all references of the corpus together; under the
            empty n-gram, the number of their tokens.
    """

    lengths: tuple[tuple[int, ...], ...]
    maxima: tuple[tuple[Counter[Ngram], ...], ...]
    totals: Counter[Ngram]


def tokenise(text: str) -> list[str]:
    """The lower-cased mteval-v13a tokens of a text; `['']` for an empty one."""
    return [token.lower() for token in _tokenizer(text).split(" ")]


def match(corpus: Corpus) -> list[Match]:
    """Compare each hypothesis of the corpus with its references."""
    counts = count_references(corpus.references)
    matches = []
    for hypothesis, lengths, maxima in zip(corpus.hypotheses, counts.lengths, counts.maxima, strict=True):
        tokens = tokenise(hypothesis)
        ngrams = _count_ngrams(tokens)
        hits = tuple(mine & most for mine, most in zip(ngrams, maxima, strict=True))
        matches.append(Match(len(tokens), lengths, hits))
    return matches


@lru_cache(maxsize=2)
def count_references(references: tuple[tuple[str, ...], ...]) -> ReferenceCounts:
    """Count the n-grams of all references; a second system on the same set costs nothing."""
    lengths = []
    maxima = []
    totals: Counter[Ngram] = Counter()
    for group in references:
        tokenised = [tokenise(text) for text in group]
        most: tuple[Counter[Ngram], ...] = tuple(Counter() for _ in range(MAX_ORDER))
        for tokens in tokenised:
            for of_group, of_text in zip(most, _count_ngrams(tokens), strict=True):
                of_group |= of_text
                totals.update(of_text)
        lengths.append(tuple(len(tokens) for tokens in tokenised))
        maxima.append(most)
        totals[()] += sum(lengths[-1])
    return ReferenceCounts(tuple(lengths), tuple(maxima), totals)


def _count_ngrams(tokens: list[str]) -> tuple[Counter[Ngram], ...]:
    return tuple(
        Counter(zip(*(tokens[start:] for start in range(order)), strict=False)) for order in range(1, MAX_ORDER + 1)
    )
