"""What a metric scores: hypotheses, their references, and their words as in the official script.

References are tokenised once per process, also where a caller builds a new Corpus for every system.
"""

import reprlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from eval.score.tokenizers import nltk_words, ptb
from loda.errors import LodaError

# e2e-metrics scores PTB words, GenerationEval scores NLTK words.
_TOKENIZERS = {"e2e": ptb, "webnlg": nltk_words, "dart": nltk_words}

Groups = tuple[tuple[str, ...], ...]
Statistics = tuple[float, ...]
"""What one instance contributes to a score: numbers that add up over instances."""

LONGEST, MOST = 20_000, 1_000
"""Characters of a text, and references of an instance: with more, METEOR takes hours for one of them."""


@dataclass(frozen=True)
class Corpus:
    """The outputs of one system and their references.

    An empty hypothesis is scored. An empty reference has length 0 for BLEU and a TER of 1; METEOR ignores it.
    """

    scorer: str  # `e2e`, `webnlg` or `dart`: the official script whose words and BLEU are computed
    hypotheses: tuple[str, ...]  # one for each instance
    references: Groups  # at least one for each instance

    def __init__(self, scorer: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        if scorer not in _TOKENIZERS:
            raise LodaError(f"scorer={scorer!r} does not exist; there are {', '.join(_TOKENIZERS)}")
        if not hypotheses:
            raise LodaError("there is no hypothesis to score; give one text per instance")
        if len(hypotheses) != len(references):
            raise LodaError(
                f"there are {len(hypotheses)} hypotheses for {len(references)} groups of references; give one "
                "hypothesis per group, a group being all references of one instance"
            )
        groups = [_texts(group, f"group {number} of the references") for number, group in enumerate(references, 1)]
        if () in groups:
            raise LodaError(f"group {groups.index(()) + 1} has no reference; every hypothesis needs one")
        if (largest := max(map(len, groups))) > MOST:
            raise LodaError(f"an instance has {largest:,} references, more than {MOST:,}; are groups told apart?")
        object.__setattr__(self, "scorer", scorer)
        object.__setattr__(self, "hypotheses", _texts(hypotheses, "hypotheses"))
        object.__setattr__(self, "references", tuple(groups))

    @property
    def hypothesis_words(self) -> tuple[str, ...]:
        """The words of each hypothesis, joined by single spaces."""
        return _words(self.scorer, (self.hypotheses,))[0]

    @property
    def reference_words(self) -> Groups:
        """The words of each reference, joined by single spaces."""
        return _words(self.scorer, self.references)


def of_mean(values: Iterable[float]) -> list[Statistics]:
    """The statistics of a metric that is a mean over the instances: value and count."""
    return [(float(value), 1.0) for value in values]


def mean(sums: Sequence[float], scorer: str) -> float:
    """`combine` of a metric that is a mean over the instances."""
    total, instances = sums
    return total / instances


def check_words(scorer: str) -> None:
    """Raise LodaError unless the tokeniser of this scorer is installed."""
    _TOKENIZERS[scorer].check()


def identify_words(scorer: str) -> dict[str, str]:
    """The content of the files, beside packages, that the words of a scorer depend on."""
    found: dict[str, str] = _TOKENIZERS[scorer].identity()
    return found


def _texts(value: Sequence[str], name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise LodaError(f"{name} must be a list of texts, not {reprlib.repr(value)}; put each text into a list")
    if (longest := max(map(len, value), default=0)) > LONGEST:
        raise LodaError(f"{name} has a text of {longest:,} characters, more than {LONGEST:,}; are texts told apart?")
    return tuple(value)


_tokenising = threading.Lock()


def _words(scorer: str, groups: Groups) -> Groups:
    with _tokenising:  # METEOR runs in a thread; without the lock two metrics would tokenise the same texts
        return _tokenise(scorer, groups)


@lru_cache(maxsize=4)
def _tokenise(scorer: str, groups: Groups) -> Groups:
    # LoRA's DART files repeat the first reference up to six times: half of the work.
    texts = list(dict.fromkeys(text for group in groups for text in group))
    words = dict(zip(texts, _TOKENIZERS[scorer].tokenise(texts), strict=True))
    return tuple(tuple(words[text] for text in group) for group in groups)
