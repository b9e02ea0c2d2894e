"""What a metric scores: hypotheses, their references, and the tokens its protocol prescribes.

References are tokenised once per process however many systems are scored against them: the cache is
keyed by the texts themselves, so a caller may build a new Corpus for every system.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from eval.score.tokenizers import nltk_words as words
from eval.score.tokenizers import ptb
from loda.errors import LodaError

# The words of each protocol. All but `e2e` are scored by GenerationEval; they differ in the references they are given.
_TOKENISERS = {"e2e": ptb, "webnlg": words, "dart": words, "dart_leaderboard": words}

Statistics = tuple[float, ...]
"""What one instance contributes to a score: numbers that add up over instances."""


@dataclass(frozen=True)
class Corpus:
    """The outputs of one system and what they are compared with.

    Args:
        protocol: `e2e` (e2e-metrics) or `webnlg`, `dart`, `dart_leaderboard` (GenerationEval); it decides on
            the words and, for BLEU, on the script that is followed.
        hypotheses: one text per instance; it may be empty.
        references: one group of texts per instance, in the order of the hypotheses. An empty text
            is a reference of length 0 for BLEU, 1 for TER and nothing for METEOR.

    Raises:
        LodaError: unknown protocol, nothing to score, different numbers of hypotheses and groups,
            or a group without a reference.
    """

    protocol: str
    hypotheses: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        check_protocol(self.protocol)
        if not self.hypotheses:
            raise LodaError("There is no hypothesis to score: give one text per instance.")
        if len(self.hypotheses) != len(self.references):
            raise LodaError(
                f"There are {len(self.hypotheses)} hypotheses for {len(self.references)} groups of "
                "references: give one hypothesis per group, a group being all references of one "
                "instance."
            )
        for number, group in enumerate(self.references, start=1):
            if not group:
                raise LodaError(f"Group {number} has no reference: every hypothesis needs one.")

    @property
    def hypothesis_words(self) -> tuple[str, ...]:
        """The words of each hypothesis, joined by single spaces."""
        return _words(self.protocol, (self.hypotheses,))[0]

    @property
    def reference_words(self) -> tuple[tuple[str, ...], ...]:
        """The words of each reference, joined by single spaces."""
        return _words(self.protocol, self.references)


def of_mean(values: Iterable[float]) -> list[Statistics]:
    """The statistics of a metric that is a mean over the instances: value and count."""
    return [(float(value), 1.0) for value in values]


def mean(sums: Sequence[float], protocol: str) -> float:
    """`combine` of a metric that is a mean over the instances."""
    total, instances = sums
    return total / instances


def check_protocol(protocol: str) -> None:
    """Raise LodaError unless the protocol is known."""
    if protocol not in _TOKENISERS:
        raise LodaError(f"Unknown protocol {protocol!r}: choose one of {', '.join(_TOKENISERS)}.")


def check_words(protocol: str) -> None:
    """Raise LodaError unless the tools that make the words of this protocol are there."""
    check_protocol(protocol)
    _TOKENISERS[protocol].check()


_tokenising = threading.Lock()


def _words(protocol: str, groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    with _tokenising:  # metrics run side by side; the second that asks shall find what the first has made
        return _tokenise_groups(protocol, groups)


@lru_cache(maxsize=4)
def _tokenise_groups(protocol: str, groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    # LoRA's DART files repeat the first reference up to six times: half of the work.
    texts = list(dict.fromkeys(text for group in groups for text in group))
    tokens = dict(zip(texts, _TOKENISERS[protocol].tokenise(texts), strict=True))
    return tuple(tuple(tokens[text] for text in group) for group in groups)
